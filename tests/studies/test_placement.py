"""Label maps turned and shifted onto other grids, by a grid built of each voxel's place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medvit.studies.grids import joint_grid, place
from medvit.studies.study import Grid

TARGET = Grid((9, 8, 7), np.array([[-0.8, 0, 0, 5], [0, 0, 2.5, -3], [0, 1.1, 0, 8], [0, 0, 0, 1.0]]))


def labels_at(grid: Grid, points: np.ndarray) -> np.ndarray:
    """1, 2, ... at the voxels of `grid` that hold the points (4, n) in mm."""
    labels = np.zeros(grid.shape, np.uint16)
    indices = np.round(np.linalg.inv(grid.affine) @ points)[:3].astype(int)
    labels[tuple(indices)] = np.arange(1, points.shape[1] + 1)
    return labels


POINTS = TARGET.affine @ np.array([[2, 3, 4, 4], [3, 3, 5, 6], [2, 4, 3, 5], [1, 1, 1, 1]])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_axes_in_any_order_and_direction(order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    own_shape = (6, 6, 6)
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for axis, (along, sign) in enumerate(zip(order, flips, strict=True)):
        turn[along, axis] = sign
    turn[:3, 3] = [1 if turn[axis, :3].sum() > 0 else 6 for axis in range(3)]
    own = Grid(own_shape, TARGET.affine @ turn)
    placed = place(labels_at(own, POINTS), own, TARGET)
    assert placed is not None
    np.testing.assert_array_equal(placed, labels_at(TARGET, POINTS))


@pytest.mark.parametrize("change", ["between", "coarser", "sheared", "beyond"])
def test_what_would_need_resampling_or_lose_a_label_is_refused(change: str) -> None:
    move = np.eye(4)
    if change == "between":
        move[0, 3] = 0.3
    elif change == "coarser":
        move[1, 1] = 2
    elif change == "sheared":
        move[0, 2] = 1
    else:
        move[2, 3] = 4
    own = Grid(TARGET.shape, TARGET.affine @ move)
    labels = np.zeros(TARGET.shape, np.uint8)
    labels[1:4, 1:4, -1] = 1
    assert place(labels, TARGET, TARGET) is not None
    assert place(labels, own, TARGET) is None


def test_a_joint_grid_holds_both() -> None:
    move = np.diag([-1.0, 1, 1, 1])
    move[:3, 3] = (12, 2, -3)
    other = Grid((5, 4, 6), TARGET.affine @ move)
    joint = joint_grid(TARGET, other)
    assert joint.shape == (13, 8, 10)
    for grid in (TARGET, other):
        placed = place(np.ones(grid.shape, np.uint8), grid, joint)
        assert placed is not None
        assert placed.sum() == np.prod(grid.shape)
