"""Stacks made upright: what was imaged stays where it was in the patient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.studies.dicom.headers import read_header
from medvit.studies.dicom.planes import single_plane
from medvit.studies.dicom.stacking import Stack, stack
from medvit.studies.dicom.tilt import angle, upright
from medvit.studies.study import Grid
from tests.studies.dicom.hazards import write_all
from tests.studies.dicom.synthetic import made_up


def sheared(*shear: float, planes: int = 3) -> Stack:
    """Planes of 6 x 5 pixels of 2 x 3 mm, 4 mm apart, each displaced by `shear` pixels against the last."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:2, 2] = 2.0 * shear[0], 3.0 * shear[1]
    affine[:3, 3] = 10, 20, 30
    return Stack((), Grid((6, 5, planes), affine), (shear[0], shear[1]))


def test_whole_pixels_are_moved_and_the_rest_is_the_minimum() -> None:
    skewed = sheared(1, -2)
    volume = np.arange(90, dtype=np.float32).reshape(6, 5, 3) + 7
    made, grid = upright(volume, skewed)
    assert made.shape == grid.shape == (8, 9, 3)
    np.testing.assert_allclose(grid.affine, [[2, 0, 0, 10], [0, 3, 0, 8], [0, 0, 4, 30], [0, 0, 0, 1]])
    for k in range(3):
        expected = np.full((8, 9), 7.0)
        expected[k : k + 6, 4 - 2 * k : 9 - 2 * k] = volume[:, :, k]
        np.testing.assert_allclose(made[:, :, k], expected, atol=1e-4)


def test_fractions_of_a_pixel_keep_the_centre_of_a_point() -> None:
    skewed = sheared(0.25, 0.5)
    volume = np.zeros((6, 5, 3), np.float32)
    volume[2, 2] = 1
    made, grid = upright(volume, skewed)
    assert made.shape == (7, 6, 3)
    for k in range(3):
        weights = made[:, :, k]
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        index = [(np.indices(weights.shape)[axis] * weights).sum() for axis in range(2)]
        np.testing.assert_allclose(grid.affine @ [*index, k, 1], skewed.grid.affine @ [2, 2, k, 1], atol=1e-4)


def test_an_upright_stack_is_given_back() -> None:
    volume = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    made, grid = upright(volume, sheared(0, 0))
    np.testing.assert_allclose(made, volume, atol=1e-6)
    np.testing.assert_allclose(grid.affine, sheared(0, 0).grid.affine)


def test_the_angle_is_that_of_the_gantry(tmp_path: Path) -> None:
    write_all(made_up().datasets(), tmp_path)
    planes = [single_plane(read_header(path)) for path in sorted(tmp_path.iterdir())]
    assert angle(stack(planes)) == pytest.approx(0, abs=1e-3)
    # 2 mm towards the feet and 2 mm forwards with each plane.
    tilted = [replace(p, position=p.position + np.array([0, 2.0 * k, 0])) for k, p in enumerate(planes)]
    assert angle(stack(tilted)) == pytest.approx(45, abs=1e-3)
    assert stack(tilted).tilted
