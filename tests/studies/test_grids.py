"""Arrays on other grids: voxels go where their place in the patient says."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from medvit.studies.grids import (
    axis_codes,
    between,
    describe,
    joint_grid,
    place,
    resample_onto,
    same_voxels,
    to_sitk,
)
from medvit.studies.study import Grid

OWN = Grid((2, 3, 4), np.diag([1.0, 2.0, 3.0, 1.0]))


def turned(shape: tuple[int, int, int], columns: list[list[float]], origin: list[float]) -> Grid:
    """A grid by the step along each of its axes, and the place of its first voxel."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T
    affine[:3, 3] = origin
    return Grid(shape, affine)


def test_axes_may_be_swapped_and_reversed() -> None:
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    # Its axes run down, to the right and to the back: (k, i, j) with k and j reversed.
    target = turned((4, 2, 3), [[0, 0, -3], [1, 0, 0], [0, -2, 0]], [0, 4, 9])
    expected = labels.transpose(2, 0, 1)[::-1, :, ::-1]
    np.testing.assert_array_equal(place(labels, OWN, target), expected)
    assert same_voxels(OWN, target)


def test_a_part_is_put_at_its_place_and_a_lost_label_is_refused() -> None:
    part = Grid((1, 1, 2), turned((1, 1, 1), [[1, 0, 0], [0, 2, 0], [0, 0, 3]], [1, 2, 6]).affine)
    placed = place(np.array([[[5, 6]]], np.uint8), part, OWN)
    assert placed is not None and placed[1, 1].tolist() == [0, 0, 5, 6] and np.count_nonzero(placed) == 2
    beyond = Grid((1, 1, 3), part.affine)
    assert place(np.array([[[5, 6, 7]]], np.uint8), beyond, OWN) is None
    assert place(np.array([[[5, 6, 0]]], np.uint8), beyond, OWN) is not None


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.1, 2.0, 3.0, 1.0]),
        np.diag([1.0, 2.0, 3.0, 1.0]) + np.array([[0, 0, 0, 0.5], [0] * 4, [0] * 4, [0] * 4]),
        np.diag([0.5, 1.0, 1.5, 1.0]),
    ],
)
def test_other_voxels_are_not_taken_for_the_same(affine: np.ndarray) -> None:
    assert not same_voxels(OWN, Grid(OWN.shape, affine))
    assert place(np.ones(OWN.shape, np.uint8), OWN, Grid(OWN.shape, affine)) is None


def test_headers_in_single_precision_name_the_same_voxels() -> None:
    assert same_voxels(OWN, Grid(OWN.shape, OWN.affine * (1 + 1e-6)))
    np.testing.assert_array_equal(between(OWN, Grid(OWN.shape, OWN.affine * (1 + 1e-6))), np.eye(4))


def test_images_are_interpolated_and_labels_are_not() -> None:
    source = Grid((3, 1, 1), np.eye(4))
    halves = Grid((5, 1, 1), np.diag([0.5, 1.0, 1.0, 1.0]))
    values = np.array([0.0, 10.0, 20.0]).reshape(3, 1, 1)
    assert resample_onto(halves, values, source).ravel().tolist() == [0, 5, 10, 15, 20]
    shifted = Grid((3, 1, 1), turned((1, 1, 1), [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0.4, 0, 0]).affine)
    assert resample_onto(shifted, values, source, nearest=True).ravel().tolist() == [0, 10, 20]
    far = Grid((2, 1, 1), turned((1, 1, 1), [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [7.0, 0, 0]).affine)
    assert resample_onto(far, values, source, outside=-5).ravel().tolist() == [-5, -5]


def test_simpleitk_sees_each_voxel_at_the_same_place() -> None:
    grid = turned((2, 3, 4), [[0, 2, 0], [-1, 0, 0], [0, 0, 3]], [10, 20, 30])
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = to_sitk(array, grid)
    for index in ((0, 0, 0), (1, 2, 3)):
        ras = (grid.affine @ [*index, 1])[:3]
        lps = SimpleITK.Image.TransformIndexToPhysicalPoint(image, index)
        np.testing.assert_allclose(lps, ras * [-1, -1, 1])
        assert image[index] == array[index]


def test_a_grid_is_described_by_its_axes_and_its_size() -> None:
    assert axis_codes(turned((1, 1, 1), [[0, -1, 0], [1, 0, 0], [0, 0, -1]], [0, 0, 0]).affine) == "PRI"
    assert describe(OWN) == "2 x 3 x 4 voxels of 1 x 2 x 3 mm"


def test_a_joint_grid_holds_both() -> None:
    other = Grid((2, 2, 2), turned((1, 1, 1), [[1, 0, 0], [0, 2, 0], [0, 0, 3]], [-2, 4, 9]).affine)
    joint = joint_grid(OWN, other)
    assert joint.shape == (4, 4, 5)
    np.testing.assert_allclose(joint.affine[:3, 3], [-2, 0, 0])
    np.testing.assert_allclose(joint.affine[:3, :3], OWN.affine[:3, :3])
