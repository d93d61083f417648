"""Both sides of a comparison are brought onto one grid, or refused; no voxel is resampled."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.errors import StudyError
from medvit.evaluation.sides import Side, check_grids, on_one_grid, read_probabilities, regions_of
from medvit.evaluation.structures import ScoredStructure
from medvit.studies.study import Grid

GRID = Grid((3, 4, 5), np.diag([1.0, 2.0, 3.0, 1.0]))
LABELS = np.arange(60, dtype=np.uint16).reshape(3, 4, 5) % 4


def flipped() -> tuple[np.ndarray, Grid]:
    """The same voxels with the first two axes exchanged and the third from head to feet."""
    turn = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 4], [0, 0, 0, 1.0]])
    return LABELS.transpose(1, 0, 2)[:, :, ::-1], Grid((4, 3, 5), GRID.affine @ turn)


def test_axes_in_another_order_are_turned_with_their_probabilities() -> None:
    labels, grid = flipped()
    chances = np.stack([labels, labels + 1]).astype(np.float32)
    ours, theirs = on_one_grid(
        Side(Path("p"), labels, grid, probabilities=chances), Side(Path("r"), LABELS, GRID)
    )
    np.testing.assert_array_equal(ours.label_map, LABELS)
    assert ours.probabilities is not None
    np.testing.assert_array_equal(ours.probabilities[1], LABELS + 1)
    assert theirs.label_map is LABELS


def test_voxels_elsewhere_or_of_another_size_are_refused() -> None:
    moved, finer = GRID.affine.copy(), np.diag([1.0, 2.0, 1.5, 1.0])
    moved[0, 3] = 0.5
    check_grids(Path("p"), GRID, GRID)
    for affine, words in ((moved, "of equal size, but elsewhere"), (finer, "lies on another grid")):
        with pytest.raises(StudyError, match=words) as error:
            on_one_grid(Side(Path("p"), LABELS, Grid((3, 4, 5), affine)), Side(Path("r"), LABELS, GRID))
        assert error.value.code == "other-grid"


def test_values_that_occur_are_those_above_0() -> None:
    assert Side(Path("p"), LABELS, GRID).values == {1, 2, 3}


def test_regions_are_found_by_name_before_value() -> None:
    wanted = [ScoredStructure("liver", (1,)), ScoredStructure("spleen", (2,))]
    exchanged = (ScoredStructure("spleen", (1,)), ScoredStructure("Liver", (2,)))
    found = regions_of(Side(Path("p"), LABELS, GRID, names=exchanged), wanted)
    assert [region.values for region in found if region] == [(2,), (1,)]
    assert regions_of(Side(Path("p"), LABELS, GRID), wanted) == tuple(wanted)
    only = regions_of(Side(Path("p"), LABELS, GRID, names=exchanged[:1]), wanted)
    assert only[0] is None and only[1] is not None


def test_probabilities_must_sum_to_1(tmp_path: Path) -> None:
    chances = np.zeros((3, 4, 5, 2), np.float32)
    chances[..., 1] = (LABELS > 1) * 0.75
    chances[..., 0] = 1 - chances[..., 1]
    nib.save(nib.Nifti1Image(chances, GRID.affine), tmp_path / "p.nii.gz")
    side = read_probabilities(tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(side.label_map, LABELS > 1)
    nib.save(nib.Nifti1Image(chances * 2, GRID.affine), tmp_path / "logits.nii.gz")
    nib.save(nib.Nifti1Image(chances[..., 0], GRID.affine), tmp_path / "one.nii.gz")
    for name in ("logits", "one"):
        with pytest.raises(StudyError, match="does not hold probabilities that sum to 1"):
            read_probabilities(tmp_path / f"{name}.nii.gz")
