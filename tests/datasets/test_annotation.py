"""Label maps from files and DICOM segmentations, on the grid of their image."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.datasets import Manifest, read_annotation
from medvit.errors import StudyError
from medvit.studies.dicom_out import Algorithm, read_source, save_dicom, segmentation
from medvit.studies.labels import LabelTable, parse_label_table
from medvit.studies.manifests.cases import Case
from medvit.studies.study import Grid
from medvit.training.cases import read_case
from tests.studies.dicom_out.synthetic import OBLIQUE, write_series

TABLE = parse_label_table(
    {
        "name": "kidneys",
        "structures": [
            {"name": "kidney", "paired": True, "code": {"value": "64033007", "meaning": "Kidney"}},
            {"name": "tumour"},
        ],
    }
)
AFFINE = np.array([[-0.9, 0, 0, 30], [0, 1.1, 0, -20], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])


def manifest(tmp_path: Path, table: LabelTable = TABLE) -> Manifest:
    return Manifest(tmp_path / "m.json", "kidneys", labels=table, values=(1, 2, 9))


def labels(shape: tuple[int, int, int] = (6, 5, 4)) -> np.ndarray:
    result = np.zeros(shape, np.uint8)
    result[1, 2, 3], result[4, 1, 0], result[5, 4, 2] = 1, 2, 3
    return result


def test_values_of_the_files_become_those_of_the_table(tmp_path: Path) -> None:
    in_file = labels()
    in_file[in_file == 3] = 9
    nib.save(nib.Nifti1Image(in_file, AFFINE), tmp_path / "seg.nii.gz")
    found = read_annotation(tmp_path / "seg.nii.gz", Grid((6, 5, 4), AFFINE), manifest(tmp_path))
    np.testing.assert_array_equal(found, labels())


def test_a_label_map_with_other_axes_lands_on_the_same_voxels(tmp_path: Path) -> None:
    drawn = labels()
    drawn[drawn == 3] = 9
    image = nib.Nifti1Image(drawn, AFFINE)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(AFFINE), nib.orientations.axcodes2ornt("SLA")
    )
    nib.save(image.as_reoriented(turn), tmp_path / "seg.nii.gz")
    found = read_annotation(tmp_path / "seg.nii.gz", Grid((6, 5, 4), AFFINE), manifest(tmp_path))
    np.testing.assert_array_equal(found, labels())


@pytest.mark.parametrize(
    "change", [np.diag([1.02, 1, 1, 1]), np.array([[1, 0, 0, 1.3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])]
)
def test_another_grid_is_refused(change: np.ndarray, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.minimum(labels(), 2), change @ AFFINE), tmp_path / "seg.nii.gz")
    with pytest.raises(StudyError, match="not those of its image") as caught:
        read_annotation(tmp_path / "seg.nii.gz", Grid((6, 5, 4), AFFINE), manifest(tmp_path))
    assert ("of equal size, but elsewhere" in str(caught.value)) == (change[0, 0] == 1)


def test_an_unknown_value_is_refused(tmp_path: Path) -> None:
    drawn = labels()
    drawn[0, 0, 0] = 4
    nib.save(nib.Nifti1Image(drawn, AFFINE), tmp_path / "seg.nii.gz")
    with pytest.raises(StudyError, match="holds 3, 4, which kidneys does not know"):
        read_annotation(tmp_path / "seg.nii.gz", Grid((6, 5, 4), AFFINE), manifest(tmp_path))


def test_a_dicom_series_with_its_segmentation(tmp_path: Path) -> None:
    shape = (12, 10, 6)
    paths, grid = write_series(tmp_path / "ct", shape, orientation=OBLIQUE)
    drawn = np.zeros(shape, np.uint8)
    # Slices without a segment are not stored in the file.
    drawn[2:5, 3:7, 2:4], drawn[7:10, 3:6, 3:5], drawn[3, 4, 3] = 1, 2, 3
    source = read_source(paths)
    # Written under other numbers: segments are matched by code and side, and by name.
    written = LabelTable("other", tuple(reversed_numbers(TABLE)))
    numbers = np.array([0, 3, 2, 1], np.uint8)
    save_dicom(
        segmentation(numbers[drawn], grid, source, written, Algorithm("by hand", "1", "0" * 64)),
        tmp_path / "seg" / "seg.dcm",
    )
    case = Case("a", (tmp_path / "ct",), tmp_path / "seg")
    study, found = read_case(case, manifest(tmp_path))
    assert study.grid is not None and study.image is not None
    assert found.shape == study.image.shape[1:]
    same = read_annotation(tmp_path / "seg" / "seg.dcm", grid, manifest(tmp_path))
    np.testing.assert_array_equal(same, drawn)
    to_grid = np.linalg.inv(grid.affine) @ study.grid.affine
    for voxel in np.argwhere(found):
        x, y, z = np.round(to_grid @ [*voxel, 1])[:3].astype(int)
        assert drawn[x, y, z] == found[tuple(voxel)]
    assert (found > 0).sum() == (drawn > 0).sum()


def reversed_numbers(table: LabelTable) -> list:
    from dataclasses import replace

    # The left kidney under another name, which its code and side make up for.
    left, right, tumour = table
    return [replace(tumour, value=1), replace(right, value=2), replace(left, value=3, name="left ren")]


def test_a_segment_that_the_manifest_does_not_know_is_named(tmp_path: Path) -> None:
    paths, grid = write_series(tmp_path / "ct", (12, 10, 6))
    drawn = np.ones((12, 10, 6), np.uint8)
    liver = parse_label_table({"name": "x", "structures": [{"name": "liver"}]})
    save_dicom(
        segmentation(drawn, grid, read_source(paths), liver, Algorithm("by hand", "1", "0" * 64)),
        tmp_path / "seg.dcm",
    )
    with pytest.raises(StudyError, match="segment 'liver' is not one of left kidney, right kidney, tumour"):
        read_annotation(tmp_path / "seg.dcm", grid, manifest(tmp_path))
