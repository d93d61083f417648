"""Grids in the patient, label maps, and what a study keeps to itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.studies.study import Grid, LabelMap, LoadedStudy, Series, Study


def test_spacing_and_volume_do_not_depend_on_the_directions_of_the_axes() -> None:
    turn = np.array([[0, -1, 0], [0.6, 0, -0.8], [0.8, 0, 0.6]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, 3.0, 0.5])
    grid = Grid((4, 4, 4), affine)
    assert grid.spacing == pytest.approx((2.0, 3.0, 0.5)) and grid.voxel_volume == pytest.approx(3.0)
    sheared = np.eye(4)
    sheared[0, 2] = 1.0
    # The step between slices is longer than their distance; the volume is that of the distance.
    assert Grid((1, 1, 1), sheared).spacing[2] == pytest.approx(2**0.5)
    assert Grid((1, 1, 1), sheared).voxel_volume == pytest.approx(1.0)


def test_grids_match_by_their_corners() -> None:
    grid = Grid((101, 11, 11), np.eye(4))
    # A difference of 1e-5 per voxel is 1e-3 mm at the far corner.
    assert grid.matches(Grid((101, 11, 11), np.diag([1 + 9e-6, 1, 1, 1])))
    assert not grid.matches(Grid((101, 11, 11), np.diag([1 + 2e-5, 1, 1, 1])))
    assert grid.matches(Grid((101, 11, 11), np.diag([1 + 2e-5, 1, 1, 1])), tolerance=0.01)
    assert not grid.matches(Grid((101, 11, 12), np.eye(4)))


def test_the_values_of_a_label_map_leave_out_background() -> None:
    array = np.array([[[0, 3], [7, 3]]], np.uint16)
    assert LabelMap(array, Grid((1, 2, 2), np.eye(4))).values == {3, 7}


def test_no_patient_shows_in_text() -> None:
    study = Study(
        "a1", (Series((Path("one.dcm"), Path("two.dcm")), "dicom"),), {"name": "Doe^Jane"}, ("note",)
    )
    assert "Doe" not in repr(study) and study.path == Path("one.dcm")
    grid = Grid((1, 1, 1), np.eye(4))
    loaded = LoadedStudy.of(study, MetaTensor(torch.zeros(1, 1, 1, 1)), grid, "resampled")
    assert loaded.notes == ("note", "resampled") and loaded.patient == {"name": "Doe^Jane"}
    assert (loaded.id, loaded.series, loaded.grid) == (study.id, study.series, grid)
    assert "Doe" not in repr(loaded)
