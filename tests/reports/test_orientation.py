"""The position of a voxel grid in the patient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medvit.reports.orientation import face_names, obliquity, to_display_order
from medvit.studies.study import Grid


def turned(degrees: float) -> np.ndarray:
    """Voxels of 1 x 2 x 3 mm, turned about the long axis of the body."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([1.0, 2, 3])
    return affine


def test_names_of_faces() -> None:
    assert face_names(np.eye(4)) == [
        ("left", "right"), ("posterior", "anterior"), ("inferior", "superior")
    ]  # fmt: skip
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -1, -2, 3, 1
    assert face_names(affine) == [
        ("superior", "inferior"), ("right", "left"), ("posterior", "anterior")
    ]  # fmt: skip


@pytest.mark.parametrize(("degrees", "expected"), [(0, 0), (10, 10), (-30, 30), (80, 10), (180, 0)])
def test_obliquity_is_the_angle_to_the_closest_axis(degrees: float, expected: float) -> None:
    assert obliquity(turned(degrees)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_display_order_runs_to_the_left_back_and_feet(axes: tuple, signs: tuple) -> None:
    spacing, shape = (1.0, 2.0, 3.0), (4, 5, 6)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[world, voxel] = sign * spacing[voxel]
    index = np.indices(shape).reshape(3, -1)
    place = (affine[:3, :3] @ index).reshape(3, *shape)
    for world in range(3):
        shown, order = to_display_order(place[world], Grid(shape, affine))
        # RAS millimetres fall along every display axis, by its spacing.
        steps = np.diff(shown, axis=world)
        assert np.allclose(steps, -order[world])
        assert order[world] == spacing[axes.index(world)]
