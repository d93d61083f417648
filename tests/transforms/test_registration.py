"""Rigid registration finds the rotation and shift by which a volume was moved."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from medvit.studies.grids import resample_onto
from medvit.studies.study import Grid
from medvit.transforms.registration import register_rigidly, rigid_from_points


def rigid(degrees: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def angle_between(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(Rotation.from_matrix(one[:3, :3].T @ other[:3, :3]).magnitude()))


def test_points_give_the_rotation_and_shift() -> None:
    truth = rigid((40, -25, 100), (12, -30, 7))
    points = np.random.default_rng(0).normal(0, 30, (6, 3))
    found = rigid_from_points(points, points @ truth[:3, :3].T + truth[:3, 3], np.arange(1.0, 7))
    np.testing.assert_allclose(found, truth, atol=1e-9)


def test_points_on_a_line_give_a_shift_alone() -> None:
    line = np.outer(np.arange(4.0), [1, 2, 3])
    found = rigid_from_points(line, line + np.array([5, 0, -2]), np.ones(4))
    np.testing.assert_allclose(found[:3, :3], np.eye(3))
    np.testing.assert_allclose(found[:3, 3], [5, 0, -2])


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.0), (2.0, 2.5, 4.0)])
def test_a_moved_volume_is_found_from_a_rough_start(spacing: tuple[float, float, float]) -> None:
    blobs = np.zeros((40, 44, 36), np.float32)
    for centre in ((10, 12, 9), (28, 15, 20), (18, 33, 24), (30, 30, 10)):
        blobs[centre] = 100
    image = gaussian_filter(blobs, 3)
    fixed_grid = Grid(image.shape, np.diag([3.0, 3, 3, 1]))
    truth = rigid((7, -4, 9), (8, -5, 6))
    affine = truth @ fixed_grid.affine @ np.diag([*(s / 3 for s in spacing), 1])
    moving_grid = Grid((60, 54, 40), affine @ rigid((0, 0, 20), (0, 0, 0)))
    moving = resample_onto(moving_grid, image, Grid(image.shape, truth @ fixed_grid.affine))
    start = rigid((3, -2, 4), (4, 4, -4)) @ truth
    found = register_rigidly(image, fixed_grid, moving, moving_grid, start)
    assert angle_between(found, truth) < 0.5
    middle = fixed_grid.affine @ [20, 22, 18, 1]
    assert np.linalg.norm((found @ middle - truth @ middle)[:3]) < 1.5  # half a voxel
