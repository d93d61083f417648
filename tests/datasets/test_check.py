from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medvit.datasets import Findings, Manifest, check_dataset, read_manifest
from medvit.studies.dicom_out import Algorithm, read_source, save_dicom, segmentation
from medvit.studies.manifests.model import Expected, Layout
from tests.datasets.folders import AFFINE, SHAPE, boxes, ct, nnunet, save
from tests.studies.dicom_out.synthetic import write_series


def found_in(folder: Path, **options: bool) -> Findings:
    return check_dataset(read_manifest(folder), folder, **options)


def only_problem(found: Findings) -> tuple[str, str, str]:
    (problem,) = found.problems
    return problem.kind, problem.case, problem.what


def test_a_sound_data_set_has_no_problems(tmp_path):
    found = found_in(nnunet(tmp_path))
    assert found.ok and found.labelled == 3
    voxel = np.prod(np.diag(AFFINE)) / 1000
    assert found.volumes == {
        "liver": pytest.approx([108 * voxel] * 3),
        "tumour": pytest.approx([8 * voxel] * 3),
    }
    assert found.as_dict()["shape"] == ([12, 14, 10], [12, 14, 10])


def break_label_grid(folder: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 0.75
    save(folder / "labelsTr/ct_001.nii.gz", boxes(), moved)


def break_label_shape(folder: Path) -> None:
    save(folder / "labelsTr/ct_001.nii.gz", boxes()[:-1])


def break_label_spacing(folder: Path) -> None:
    save(folder / "labelsTr/ct_001.nii.gz", boxes(), AFFINE @ np.diag([1, 1, 2, 1]))


def turn_label(folder: Path) -> None:
    turned = AFFINE @ [[0, -1, 0, SHAPE[0] - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    save(folder / "labelsTr/ct_001.nii.gz", boxes(1)[::-1].transpose(1, 0, 2), turned)


def test_a_label_map_with_its_axes_turned_is_sound(tmp_path):
    turn_label(nnunet(tmp_path))
    assert found_in(tmp_path).ok


def break_values(folder: Path) -> None:
    labels = boxes(1)
    labels[0, 0, :3] = 5
    save(folder / "labelsTr/ct_001.nii.gz", labels)


def break_wholeness(folder: Path) -> None:
    labels = boxes(1).astype(np.float32)
    labels[0, 0, :2] = 0.5
    save(folder / "labelsTr/ct_001.nii.gz", labels)


def break_emptiness(folder: Path) -> None:
    save(folder / "labelsTr/ct_001.nii.gz", np.zeros(SHAPE, np.uint8))


def break_label_file(folder: Path) -> None:
    path = folder / "labelsTr/ct_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])


def break_image_header(folder: Path) -> None:
    (folder / "imagesTr/ct_001_0000.nii.gz").write_bytes(b"no image")


def remove_label(folder: Path) -> None:
    (folder / "labelsTr/ct_001.nii.gz").unlink()


def remove_image(folder: Path) -> None:
    (folder / "imagesTr/ct_001_0000.nii.gz").unlink()


def shift_intensities(folder: Path) -> None:
    save(folder / "imagesTr/ct_001_0000.nii.gz", ct(1) + 1024)


def rescale_intensities(folder: Path) -> None:
    save(folder / "imagesTr/ct_001_0000.nii.gz", (ct(1) + 1000) / 2000)


def flatten_intensities(folder: Path) -> None:
    save(folder / "imagesTr/ct_001_0000.nii.gz", np.full(SHAPE, -1000, np.float32))


def lose_intensities(folder: Path) -> None:
    image = ct(1)
    image[3, 3, 3] = np.nan
    save(folder / "imagesTr/ct_001_0000.nii.gz", image)


def stack_images(folder: Path) -> None:
    save(folder / "imagesTr/ct_001_0000.nii.gz", np.stack([ct(1), ct(2)], -1))


def copy_image(folder: Path) -> None:
    shutil.copy(folder / "imagesTr/ct_000_0000.nii.gz", folder / "imagesTr/ct_001_0000.nii.gz")


@pytest.mark.parametrize(
    ("change", "kind", "what"),
    [
        (break_label_grid, "grid", "has the image's size of 12 x 14 x 10 voxels, but lies elsewhere"),
        (break_label_shape, "grid", "has 11 x 14 x 10 voxels, the image 12 x 14 x 10"),
        (break_label_spacing, "grid", "has voxels of 1.5 x 1.5 x 6 mm, the image 1.5 x 1.5 x 3 mm"),
        (break_values, "label-value", "holds 5 (3 voxels), which the manifest does not name"),
        (break_wholeness, "label-value", "holds 0.5 (2 voxels), which the manifest does not name"),
        (break_emptiness, "label-empty", "holds no label"),
        (break_label_file, "unreadable", "ends in the middle of its gzip stream"),
        (break_image_header, "unreadable", "ends before its header"),
        (remove_label, "missing-label", "is not there"),
        (remove_image, "missing-image", "is not there"),
        (shift_intensities, "intensity", "which are not HU: subtract 1024"),
        (rescale_intensities, "intensity", "which are not HU: the image has been windowed or rescaled"),
        (flatten_intensities, "intensity", "holds nothing but the value -1000"),
        (lose_intensities, "unreadable", "has 1 of 1680 voxels that are NaN or infinite"),
        (stack_images, "channels", "holds 2 volumes where 1 are expected"),
        (copy_image, "duplicate", "is the same as ct_000_0000.nii.gz of case ct_000"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_fault_is_the_one_problem_that_is_found(tmp_path, change, kind, what):
    change(nnunet(tmp_path))
    found_kind, case, found_what = only_problem(found_in(tmp_path))
    assert (found_kind, case) == (kind, "ct_001")
    assert what in found_what


@pytest.mark.parametrize("change", [break_label_shape, break_image_header, remove_label, copy_image])
def test_headers_alone_show_what_they_can(tmp_path, change):
    change(nnunet(tmp_path))
    found = found_in(tmp_path, voxels=False)
    assert len(found.problems) == 1 and "Voxels were not read" in found.notes[-1]


def test_structures_that_never_occur(tmp_path):
    nnunet(tmp_path, labels={"background": 0, "liver": 1, "tumour": 2, "cyst": 3})
    assert only_problem(found_in(tmp_path)) == ("label-absent", "", "cyst occurs in no label map")


def test_counts(tmp_path):
    nnunet(tmp_path, numTraining=4)
    assert only_problem(found_in(tmp_path))[2] == "there are 3 labelled cases where 4 are expected"


def own(folder: Path, **more: object) -> Manifest:
    like = read_manifest(nnunet(folder))
    facts = {"labels": like.labels, "values": like.values, "layouts": like.layouts, "modality": "CT"}
    return Manifest(folder / "own.yaml", "own", **(facts | more))


def test_splits_that_share_or_miss_cases(tmp_path):
    splits = {"train": ("ct_000", "ct_001", "ct_009"), "test": ("ct_001", "ct_002")}
    found = check_dataset(own(tmp_path, splits=splits, split_sizes={"test": 3, "val": 7}), tmp_path)
    assert [(p.kind, p.case, p.what) for p in found.problems] == [
        ("split", "ct_001", "is in train and in test"),
        ("split", "ct_009", "is listed in train, but there is no such case"),
        ("split", "", "test has 2 cases where 3 are expected"),
    ]
    assert "The cases of the split 'val' are not listed, only their number, 7." in found.notes


def test_expected_grids_and_empty_label_maps(tmp_path):
    spacing = ((1.0, 1.0, 1.0), (1.5, 1.5, 2.0))
    shape = ((12, 14, 10), (12, 14, 12))
    expected = Expected(shape=shape, spacing=spacing, absent=("tumour",), empty_labels=True)
    manifest = own(tmp_path, expected=expected)
    for number in range(3):
        save(tmp_path / f"labelsTr/ct_{number:03d}.nii.gz", (boxes() == 1).astype(np.uint8) * (number > 0))
    found = check_dataset(manifest, tmp_path)
    assert {problem.kind for problem in found.problems} == {"spacing", "duplicate"}
    assert (
        found.problems[0].what
        == "has voxels of 1.5 x 1.5 x 3 mm, where 1 x 1 x 1 to 1.5 x 1.5 x 2 are expected"
    )


def test_checksums_of_files_and_of_archives_beside_the_folder(tmp_path):
    (tmp_path / "set.tar").write_bytes(b"archive")
    right = "md5:" + hashlib.md5(b"archive", usedforsecurity=False).hexdigest()
    sums = {"set.tar": right, "imagesTr/ct_000_0000.nii.gz": "sha256:" + 64 * "0", "more.tar": right}
    found = check_dataset(own(tmp_path / "set", checksums=sums), tmp_path / "set")
    assert only_problem(found)[2] == "does not have the sha256 that its source states; download it again"
    assert "Missing, so not compared by checksum: more.tar." in found.notes
    assert any("has no checksums" in note for note in found_in(nnunet(tmp_path / "other")).notes)


def test_channels_in_one_file_or_in_several(tmp_path):
    labels = own(tmp_path).labels
    stacked = np.stack([ct(1) + 2000, ct(2) + 2000, np.full(SHAPE, 3, np.float32)], -1)
    save(tmp_path / "mr/a.nii.gz", stacked)
    save(tmp_path / "mr/b_1.nii.gz", ct(3) + 2000)
    save(tmp_path / "mr/b_2.nii.gz", ct(4, (12, 14, 9)) + 2000)
    save(tmp_path / "mr/b_3.nii.gz", ct(5))
    facts = {"channels": ("t1", "t2", "pd"), "modality": "MR", "labels": labels, "values": (1, 2)}
    one = Manifest(Path("one.yaml"), "one", layouts=(Layout("{case}.nii.gz", case="a"),), **facts)
    found = check_dataset(one, tmp_path / "mr")
    assert found.problems[0].what == "channel pd holds nothing but the value 3"
    several = Layout("{case}_{channel}.nii.gz", channels=("1", "2", "3"))
    found = check_dataset(Manifest(Path("m.yaml"), "m", layouts=(several,), **facts), tmp_path / "mr")
    assert [(p.kind, p.path) for p in found.problems[:2]] == [
        ("grid", "b_2.nii.gz"),
        ("intensity", "b_3.nii.gz"),
    ]
    assert "as CT does and MR does not" in found.problems[1].what


def test_dicom_series_with_segmentation(tmp_path):
    manifest = own(tmp_path / "like")
    paths, grid = write_series(tmp_path / "set/a")
    labels = np.zeros(grid.shape, np.uint8)
    labels[2:6, 2:6, 2:4] = 1
    labels[8:9, 2:4, 2:4] = 2
    result = segmentation(labels, grid, read_source(paths), manifest.labels, Algorithm("x", "1", "ab" * 32))
    save_dicom(result, tmp_path / "set/a.seg.dcm")
    dicom = own(tmp_path / "like", layouts=(Layout("{case}", label="{case}.seg.dcm", case="a"),), modality="")
    found = check_dataset(dicom, tmp_path / "set")
    assert found.problems == []
    assert found.volumes["tumour"] == pytest.approx([4 * grid.voxel_volume / 1000])
    only_liver = {"labels": type(manifest.labels)("own", manifest.labels.structures[:1]), "values": (1,)}
    less = own(tmp_path / "like", layouts=dicom.layouts, modality="", **only_liver)
    kind, case, what = only_problem(check_dataset(less, tmp_path / "set", voxels=True))
    assert (kind, case) == ("label-value", "a") and "tumour" in what


def test_an_empty_folder_is_a_problem_with_advice(tmp_path):
    (tmp_path / "sets/empty").mkdir(parents=True)
    manifest = read_manifest("msd09_spleen")
    kind, _, what = only_problem(check_dataset(manifest, tmp_path / "sets/empty"))
    assert kind == "no-cases" and "download Task09_Spleen.tar" in what
    nnunet(tmp_path / "sets/ct")
    found = check_dataset(read_manifest(tmp_path / "sets/ct"), tmp_path / "sets")
    assert only_problem(found)[2].endswith(f"but {tmp_path}/sets/ct does; give that folder")


def test_many_problems_of_a_kind_are_cut_short_in_print_alone(tmp_path):
    nnunet(tmp_path, count=23, numTraining=23)
    for path in (tmp_path / "labelsTr").iterdir():
        path.unlink()
    found = found_in(tmp_path)
    assert "missing-label: and 3 more; --json lists them all" in str(found)
    assert sum(p["kind"] == "missing-label" for p in found.as_dict()["problems"]) == 23


def test_the_command_says_what_it_found_without_torch(tmp_path):
    break_values(nnunet(tmp_path))
    code = (
        "import sys; from medvit.cli.data import app; from typer.testing import CliRunner\n"
        "for more in [], ['--json']:\n"
        "    result = CliRunner().invoke(app, [*sys.argv[1:], *more])\n"
        "    print(result.output, '----')\n"
        "    assert result.exit_code == 3\n"
        "assert 'torch' not in sys.modules and 'monai' not in sys.modules"
    )
    run = [sys.executable, "-c", code, "check", str(tmp_path), str(tmp_path)]
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split("----")
    assert "label-value: ct_001: labelsTr/ct_001.nii.gz: holds 5 (3 voxels)" in output[0]
    assert "liver          1      3" in output[0]
    assert json.loads(output[1])["problems"][0]["kind"] == "label-value"
