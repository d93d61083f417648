"""Files of results: on exactly the source's grid and header, whole or not at all, under safe names."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.studies import atomic_path, safe_join, safe_name, sha256_of, write_image, write_label_map
from medvit.studies.files import write_json
from medvit.studies.formats import meta_tensor
from medvit.studies.nifti import read_header, read_image
from medvit.studies.study import Grid, LoadedStudy, Series
from tests.studies.nifti_cases import AFFINE, SCODE, VOXELS, patched, sound

LABELS = np.random.default_rng(5).integers(0, 40, VOXELS.shape)
PERMUTED = AFFINE[:, [2, 0, 1, 3]]
MIRRORED = AFFINE @ np.diag([1, -1, 1, 1])
GEOMETRY = (
    "dim", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
    "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units", "magic", "toffset",
)  # fmt: skip


def loaded(series: Series, grid: Grid) -> LoadedStudy:
    return LoadedStudy(
        "a", (series,), image=meta_tensor(np.zeros((1, *grid.shape), "f4"), grid, "a"), grid=grid
    )


def source_file(folder: Path, content: bytes) -> Path:
    path = folder / "source.nii"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("content", "index"),
    [
        (sound(), ...),
        (sound(affine=PERMUTED), ...),
        (sound(affine=MIRRORED), ...),
        (sound(endianness=">"), ...),
        (sound(version=2), ...),
        (sound(version=2, endianness=">"), ...),
        (patched((SCODE, "h", (0,))), ...),
        (patched((252, "2h", (0, 4))), ...),
        (sound(VOXELS[:, :, 0]), (..., slice(1))),
        (sound(VOXELS[:, :, :1]), (..., slice(1))),
        (sound(VOXELS[:3, :3, :1]), (slice(3), slice(3), slice(1))),
        (sound(VOXELS[..., None]), ...),
    ],
    ids=["oblique", "permuted", "mirrored", "big-endian", "nifti2", "nifti2-big-endian", "qform", "template",
         "2d", "single-slice", "tiny", "4d"],
)  # fmt: skip
def test_label_map_has_the_header_of_its_source(
    content: bytes, index: tuple, suffix: str, tmp_path: Path
) -> None:
    header = read_header(source_file(tmp_path, content))
    labels = LABELS[index]
    path = write_label_map(tmp_path / f"labels{suffix}", labels, header)
    source, result = nibabel.load(header.path), nibabel.load(path)
    for name in GEOMETRY:
        np.testing.assert_array_equal(source.header[name], result.header[name], name)
    assert result.shape == source.shape and result.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(result.dataobj).reshape(labels.shape), labels)
    again = read_header(path)
    assert again.grid.matches(header.grid, 0)
    np.testing.assert_array_equal(read_image(again)[0], labels)


def test_values_above_255_take_16_bits_and_names_go_beside(tmp_path: Path) -> None:
    labels = LABELS * 1000
    path = write_label_map(
        tmp_path / "out" / "a.b.nii.gz", labels, Grid(VOXELS.shape, AFFINE), {1000: "Gehirn ü"}
    )
    assert nibabel.load(path).get_data_dtype() == np.uint16
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), labels)
    assert json.loads((tmp_path / "out" / "a.b.json").read_text("utf-8")) == {"labels": {"1000": "Gehirn ü"}}
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.b.json", "a.b.nii.gz"]


@pytest.mark.parametrize("sheared", [False, True])
def test_grid_alone_suffices_for_other_formats(sheared: bool, tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 1] = 0.5 * sheared
    study = loaded(Series((tmp_path / "a.mha",), "itk"), Grid(VOXELS.shape, affine))
    path = write_label_map(tmp_path / "labels.nii.gz", LABELS, study)
    header = read_header(path)
    np.testing.assert_allclose(header.grid.affine, affine, atol=1e-5)
    assert bool(header.notes) == sheared
    assert nibabel.load(path).header.get_xyzt_units()[0] == "mm"


def test_image_is_stored_as_float_under_the_source_header(tmp_path: Path) -> None:
    header = read_header(
        source_file(tmp_path, patched((112, "2f", (3, 7))))
    )  # a scaling that must not survive
    restored = (VOXELS / 7).astype(np.float32)
    path = write_image(tmp_path / "image.nii.gz", restored, header)
    assert nibabel.load(path).get_data_dtype() == np.float32
    np.testing.assert_array_equal(nibabel.load(path).get_fdata(dtype=np.float32), restored)


def test_source_with_several_channels_in_one_file_yields_one_volume(tmp_path: Path) -> None:
    header = read_header(source_file(tmp_path, sound(np.stack([VOXELS, VOXELS], -1))))
    assert nibabel.load(write_label_map(tmp_path / "labels.nii", LABELS, header)).shape == VOXELS.shape


def test_free_text_of_the_source_header_does_not_go_along(tmp_path: Path) -> None:
    fields = [(14, "18s", (b"DOE^JOHN",)), (148, "80s", (b"DOE^JOHN",)), (228, "24s", (b"DOE^JOHN",))]
    header = read_header(source_file(tmp_path, patched(*fields)))
    assert b"DOE" not in write_label_map(tmp_path / "labels.nii", LABELS, header).read_bytes()


def test_a_source_that_has_changed_is_noticed(tmp_path: Path) -> None:
    path = source_file(tmp_path, sound())
    study = loaded(Series((path,), "nifti"), read_header(path).grid)
    path.write_bytes(sound(affine=MIRRORED))
    with pytest.raises(MedvitError, match="has changed"):
        write_label_map(tmp_path / "labels.nii.gz", LABELS, study)


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    grid = Grid(VOXELS.shape, AFFINE)
    paths = [write_label_map(tmp_path / name, LABELS, grid) for name in ("a.nii.gz", "b.nii.gz")]
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:-1], "does not fit"),
        (LABELS.astype(np.float32), "integers"),
        (LABELS - 1, "-1"),
        (LABELS * 3000, "65535"),
    ],
)
def test_what_is_no_label_map_is_not_written(labels: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match=message):
        write_label_map(tmp_path / "labels.nii.gz", labels, Grid(VOXELS.shape, AFFINE))
    assert not list(tmp_path.iterdir())


def test_non_finite_images_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="NaN"):
        write_image(tmp_path / "image.nii.gz", np.full(VOXELS.shape, np.nan), Grid(VOXELS.shape, AFFINE))
    assert not list(tmp_path.iterdir())


def test_atomic_path_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        assert partial.parent == tmp_path and partial.name.endswith(".nii.gz")
        partial.write_text("half of the n")
        raise RuntimeError("cut off")
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and [file.name for file in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(MedvitError, match=r"a\.nii cannot be written.*free space"),
        atomic_path(tmp_path / "a.nii"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_nothing_leads_out_of_the_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    assert safe_join(tmp_path / "out", "a", "b.nii") == tmp_path.resolve() / "out" / "a" / "b.nii"
    for name in ("..", "../x", "/etc/passwd", "a/../../x", "link/x"):
        with pytest.raises(MedvitError, match="leads out"):
            safe_join(tmp_path / "out", name)


@pytest.mark.parametrize("text", ["../../etc", "a/b", ".", "", "con<>:|?*", "ü王", "x" * 300, "王" * 300])
def test_safe_names_are_single_folders(text: str, tmp_path: Path) -> None:
    folder = tmp_path / safe_name(text)
    folder.mkdir()
    assert folder.resolve().parent == tmp_path.resolve()


def test_safe_names_by_hand() -> None:
    given = ["sub-01_T1w.v2", " a  b ", "..hidden", "x" * 119 + "..y", "é" * 100, "", "?"]
    expected = ["sub-01_T1w.v2", "a_b", "hidden", "x" * 119, "é" * 60, "study", "study"]
    assert [safe_name(text) for text in given] == expected


def test_json_keeps_letters_and_ends_in_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "er" / "a.json", {"name": "Müller", "values": [1]})
    text = (tmp_path / "deep" / "er" / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "name": "Müller",\n  "values": [\n    1\n  ]\n}\n'


def test_digests_are_those_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the first example of FIPS 180-2
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
