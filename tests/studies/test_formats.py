"""One table of formats: what a file is told to be, and each format read behind the same gate."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medvit.errors import StudyError
from medvit.studies import Grid, check_studies, find_studies, only_study, read_study, write_label_map
from medvit.studies.formats import format_of, read_header, read_label_map, read_voxels, series_at
from medvit.studies.itk_formats import kept_locale
from tests.studies.nifti_cases import AFFINE, VOXELS

SPACING = (1.0, 2.0, 3.0)


def analyze(folder: Path, name: str = "scan") -> Path:
    image = nibabel.AnalyzeImage(VOXELS, None)
    image.header.set_zooms(SPACING)
    nibabel.save(image, folder / f"{name}.img")
    return folder / f"{name}.hdr"


def pair(folder: Path) -> Path:
    image = nibabel.Nifti1Pair(VOXELS, AFFINE)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / "scan.img")
    return folder / "scan.hdr"


def by_itk(path: Path) -> Path:
    import itk

    image = itk.image_from_array(np.ascontiguousarray(VOXELS.T))
    image.SetSpacing(SPACING)
    image.SetOrigin((10.0, 20.0, 30.0))
    with kept_locale():
        itk.imwrite(image, str(path))
    return path


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.NII.GZ", b"", "nifti"),
        ("a.mhd", b"", "itk"),
        ("a.mgz", b"", "freesurfer"),
        ("DICOMDIR", b"", "dicom"),
        ("2dseq", b"", "other"),
        ("mesh.vtk", b"# vtk DataFile Version 3.0\nx\nBINARY\nDATASET POLYDATA\n", ""),
        ("image.vtk", b"# vtk DataFile Version 3.0\nx\nBINARY\nDATASET STRUCTURED_POINTS\n", "other"),
        ("envi.hdr", b"ENVI\nsamples = 10\n", ""),
        ("notes", b"some text", ""),
        ("preamble", bytes(128) + b"DICM", "dicom"),
        ("meta", b"\2\0\0\0UL\4\0", "dicom"),
        ("sop_class", b"\x08\0\x16\0UI\x1a\0", "dicom"),
        ("implicit", b"\x08\0\x05\0\x0a\0\0\0", "dicom"),
        ("too_long", b"\x08\0\x05\0\0\0\0\x7f", ""),
        ("other_group", b"\x10\0\x10\0PN\4\0", ""),
    ],
)
def test_format_by_name_or_first_bytes(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert format_of(tmp_path / name) == kind


def test_nifti_pair_is_one_study_with_its_own_affine(tmp_path: Path) -> None:
    header = pair(tmp_path)
    found = find_studies(tmp_path)
    assert [study.path for study in found.studies] == [header]
    assert [str(left.why) for left in found.left_out] == ["holds the voxels of scan.hdr"]
    study = read_study(found.studies[0])
    np.testing.assert_array_equal(study.image[0].numpy(), VOXELS)
    assert study.grid.matches(Grid(VOXELS.shape, AFFINE))
    # A result is a single file, whatever the source was.
    write_label_map(tmp_path / "out.nii.gz", np.zeros(VOXELS.shape, np.uint8), study)
    assert read_header(series_at(tmp_path / "out.nii.gz")).grid.matches(study.grid)


def test_pair_named_by_its_voxels_and_pair_cut_short(tmp_path: Path) -> None:
    header = pair(tmp_path)
    voxels = header.with_suffix(".img")
    assert only_study(voxels).path == header
    voxels.write_bytes(voxels.read_bytes()[:-1])
    with pytest.raises(StudyError, match="nifti-truncated"):
        read_study(only_study(header))
    voxels.unlink()
    with pytest.raises(StudyError, match=r"whose \.img is missing"):
        read_study(only_study(header))


def test_analyze_is_read_with_its_doubt_said(tmp_path: Path) -> None:
    study = read_study(only_study(analyze(tmp_path)))
    np.testing.assert_array_equal(study.image[0].numpy(), VOXELS)
    assert study.grid.spacing == SPACING and study.grid.affine[0, 0] < 0
    assert any("left from right" in note for note in study.notes)
    (tmp_path / "scan.img").write_bytes(b"short")
    with pytest.raises(StudyError, match="image-truncated"):
        read_study(only_study(tmp_path / "scan.hdr"))


def test_freesurfer_agrees_with_nifti(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(VOXELS, AFFINE.astype(np.float32)), tmp_path / "brain.mgz")
    study = read_study(only_study(tmp_path))
    np.testing.assert_array_equal(study.image[0].numpy(), VOXELS)
    assert study.id == "brain" and study.grid.matches(Grid(VOXELS.shape, AFFINE))
    content = (tmp_path / "brain.mgz").read_bytes()
    (tmp_path / "brain.mgz").write_bytes(content[: len(content) // 2])
    with pytest.raises(StudyError, match="image-"):
        read_study(only_study(tmp_path))


def test_channels_of_a_4d_freesurfer_file(tmp_path: Path) -> None:
    both = np.stack([VOXELS, VOXELS + 1], axis=-1).astype(np.int16)
    nibabel.save(nibabel.MGHImage(both, AFFINE.astype(np.float32)), tmp_path / "both.mgh")
    study = read_study(only_study(tmp_path, channels=2))
    np.testing.assert_array_equal(study.image.numpy(), np.moveaxis(both, -1, 0))
    with pytest.raises(StudyError, match="holds 2 volumes"):
        read_study(only_study(tmp_path))


@pytest.mark.parametrize("name", ["a.gipl", "a.gipl.gz", "a.vtk", "a.mrc", "a.mnc"])
def test_formats_of_itk(tmp_path: Path, name: str) -> None:
    study = read_study(only_study(by_itk(tmp_path / name)))
    np.testing.assert_array_equal(study.image[0].numpy(), VOXELS)
    np.testing.assert_allclose(
        study.grid.affine,
        np.diag([-1.0, -2, 3, 1])
        + np.eye(4)[:, 3:] * 0
        + np.array([[0, 0, 0, -10], [0, 0, 0, -20], [0, 0, 0, 30], [0, 0, 0, 0]]),
    )
    assert any("left and right" in note for note in study.notes) == (name != "a.mnc")


@pytest.mark.parametrize("name", ["a.gipl", "a.gipl.gz", "a.vtk", "a.mrc", "a.mnc"])
def test_cut_files_of_itk_are_refused(tmp_path: Path, name: str) -> None:
    content = by_itk(tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) - 3])
    with pytest.raises(StudyError, match="image-"):
        read_study(only_study(tmp_path / name))


def test_without_itk_one_sentence_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gipl").write_bytes(bytes(400))
    monkeypatch.setitem(sys.modules, "itk", None)
    [checked] = check_studies(tmp_path)
    assert not checked.ok and "pip install 'medvit[itk]'" in checked.problems[0][1]


def test_label_map_refuses_fractions_and_negatives(tmp_path: Path) -> None:
    for number, values in enumerate((VOXELS * 0.5, -np.abs(VOXELS) - 1)):
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), AFFINE), tmp_path / f"{number}.nii.gz")
        with pytest.raises(StudyError, match="not a label map"):
            read_label_map(tmp_path / f"{number}.nii.gz")
    whole = np.abs(VOXELS).astype(np.uint16)
    nibabel.save(nibabel.Nifti1Image(whole, AFFINE), tmp_path / "labels.nii.gz")
    found = read_label_map(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(found.array, whole)
    assert found.values == set(whole.ravel().tolist()) - {0}


def test_only_study_says_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(StudyError, match=r"holds no studies.*readme\.txt is not an image"):
        only_study(tmp_path)
    for name in ("a", "b"):
        nibabel.save(nibabel.Nifti1Image(VOXELS, AFFINE), tmp_path / f"{name}.nii")
    with pytest.raises(StudyError, match="holds 2 studies where one is expected"):
        only_study(tmp_path)


def test_header_and_voxels_agree(tmp_path: Path) -> None:
    for path in (analyze(tmp_path, "one"), pair(tmp_path)):
        header = read_header(series_at(path))
        array, grid, _ = read_voxels(series_at(path))
        assert header.grid.matches(grid) and array.shape == grid.shape
        assert [file.suffix for file in header.files] == [".hdr", ".img"]
