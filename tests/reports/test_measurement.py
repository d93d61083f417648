"""Volumes, shares, asymmetry, intensity, border and parts, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.reports import measure
from medvit.studies.labels import load_label_table
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN


def blocks() -> tuple[np.ndarray, Grid]:
    """Left hippocampus of 4x5x6, right one of 2x5x6 voxels of 1.5x1x2 mm, sheared and turned."""
    labels = np.zeros((20, 16, 12), np.uint8)
    labels[2:6, 3:8, 2:8] = BRAIN.by_name["left hippocampus"].value
    labels[12:14, 3:8, 2:8] = BRAIN.by_name["right hippocampus"].value
    angle = np.radians(10)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag((1.5, 1.0, 2.0))
    return labels, Grid(labels.shape, affine)


def test_volumes_shares_and_asymmetry() -> None:
    labels, grid = blocks()
    result = measure(labels, grid, BRAIN)
    left, right = result["left hippocampus"], result["right hippocampus"]
    assert left.volume_ml == pytest.approx(4 * 5 * 6 * 3 / 1000)
    assert right.volume_ml == pytest.approx(2 * 5 * 6 * 3 / 1000)
    assert result.whole_name == "intracranial volume"
    assert left.share == pytest.approx(2 / 3)
    (pair,) = (a for a in result.asymmetries if a.name == "hippocampus")
    assert pair.index == pytest.approx(100 * (120 - 60) / 90)
    assert {m.structure.name for m in result.present} == {"left hippocampus", "right hippocampus"}
    assert len(result.absent) == len(BRAIN) - 2


def test_a_sheared_grid_has_the_volume_of_its_determinant() -> None:
    labels, grid = blocks()
    sheared = grid.affine.copy()
    sheared[:3, 2] = (0.0, 1.0, 2.0)  # a gantry tilt lengthens the column but not the volume
    sheared[:3, :2] = np.diag((1.5, 1.0, 0.0))[:, :2]
    assert measure(labels, Grid(labels.shape, sheared), BRAIN)["left hippocampus"].volume_ml == pytest.approx(
        0.36
    )


def test_asymmetry_of_an_absent_side_is_unknown() -> None:
    labels, grid = blocks()
    labels[12:14] = 0
    (pair,) = (a for a in measure(labels, grid, BRAIN).asymmetries if a.name == "hippocampus")
    assert pair.index is None


def test_intensity_leaves_out_what_is_not_finite() -> None:
    labels, grid = blocks()
    image = np.where(labels == BRAIN.by_name["left hippocampus"].value, 7.0, 1.0).astype(np.float32)
    image[2, 3:8, 2:8] = 9.0
    image[3, 3:8, 2:8] = np.nan
    result = measure(labels, grid, BRAIN, image)["left hippocampus"]
    assert result.intensity_mean == pytest.approx((9 + 7 + 7) / 3)
    assert result.intensity_std == pytest.approx(np.std([9, 7, 7]))
    assert result.voxels == 120


@pytest.mark.parametrize(
    ("flips", "index", "face"),
    [((1, 1, 1), (0, 5, 5), "left"), ((-1, 1, 1), (0, 5, 5), "right"), ((1, 1, -1), (5, 5, 9), "inferior")],
)
def test_the_border_is_named_after_the_patient(
    flips: tuple[int, ...], index: tuple[int, ...], face: str
) -> None:
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[tuple(slice(max(0, i - 1), i + 1) for i in index)] = 3
    grid = Grid(labels.shape, np.diag([*(2.0 * f for f in flips), 1.0]))
    result = measure(labels, grid, BRAIN).structures[2]
    assert result.border == (face,)
    assert result.border_mm2 == pytest.approx(4 * 4.0)


def test_a_single_slice_does_not_touch_its_own_faces() -> None:
    labels = np.zeros((10, 10, 1), np.uint8)
    labels[4:6, 4:6] = 1
    assert measure(labels, Grid(labels.shape, np.eye(4)), BRAIN).structures[0].border == ()


def test_parts_and_the_share_of_the_largest() -> None:
    labels, grid = blocks()
    labels[18, 12, 10] = labels[19, 13, 11] = BRAIN.by_name[
        "left hippocampus"
    ].value  # corner to corner: one part
    result = measure(labels, grid, BRAIN)["left hippocampus"]
    assert result.parts == 2
    assert result.largest_part == pytest.approx(120 / 122)


def test_confidence_is_averaged_over_the_structure() -> None:
    labels, grid = blocks()
    confidence = np.where(np.arange(20)[:, None, None] < 10, 0.5, 0.9) * np.ones(labels.shape)
    result = measure(labels, grid, BRAIN, confidence=confidence)
    assert result["left hippocampus"].confidence == pytest.approx(0.5)
    assert result["right hippocampus"].confidence == pytest.approx(0.9)


def test_nothing_labelled() -> None:
    result = measure(np.zeros((4, 4, 4), np.int16), Grid((4, 4, 4), np.eye(4)), BRAIN)
    assert not result.present
    assert result.whole_ml == 0.0
    assert np.isnan(result.structures[0].share)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\)"),
        (np.zeros((4, 4, 4), np.float32), "integers, not float32"),
        (np.full((4, 4, 4), 31, np.uint8), "values 31 to 31"),
        (np.full((4, 4, 4), -1, np.int16), "values -1 to -1"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(labels: np.ndarray, says: str) -> None:
    with pytest.raises(MedvitError, match=says):
        measure(labels, Grid((4, 4, 4), np.eye(4)), BRAIN)


def test_an_image_on_another_grid_is_refused() -> None:
    with pytest.raises(MedvitError, match="image has shape"):
        measure(np.zeros((4, 4, 4), np.uint8), Grid((4, 4, 4), np.eye(4)), BRAIN, np.zeros((4, 4, 5)))


def test_sides_that_are_not_known_are_neither_measured_nor_missed_beside_those_that_are() -> None:
    table = load_label_table("hippocampus")
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:2], labels[4:6, :5], labels[4:6, 5:] = 3, 5, 6
    found = measure(labels, Grid((10, 10, 10), np.eye(4)), table)
    assert [m.structure.name for m in found.absent] == ["right hippocampal head"]
    assert [a.name for a in found.asymmetries] == ["hippocampal head", "hippocampal body and tail"]
    assert found.asymmetries[1].index == 0
    alone = measure(np.minimum(labels, 1), Grid((10, 10, 10), np.eye(4)), table)
    assert len(alone.structures) == 2 and not alone.asymmetries
