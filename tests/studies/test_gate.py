"""The gate: sizes, positions and values that no patient has, whatever the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.errors import StudyError
from medvit.studies.gate import doubts, finite, is_sheared, placement_fault, size_fault


@pytest.mark.parametrize("shape", [(1, 1, 1), (16_384, 256, 256), (512, 512, 4096)])
def test_sizes_that_scanners_make(shape: tuple[int, ...]) -> None:
    assert size_fault(shape) == ""


@pytest.mark.parametrize("shape", [(0, 4, 4), (-1, 4, 4), (16_385, 1, 1), (2048, 2048, 257)])
def test_sizes_that_no_scanner_makes(shape: tuple[int, ...]) -> None:
    assert " x ".join(map(str, shape)) in size_fault(shape)


def test_places() -> None:
    assert placement_fault(np.diag([-0.7, 0.7, 3.0, 1])) == ""
    flat, far, broken = np.diag([1.0, 1, 0, 1]), np.eye(4), np.eye(4)
    far[0, 3], broken[1, 1] = 1e6, np.nan
    assert placement_fault(flat) == "flatten the image"
    assert "implausibly large" in placement_fault(far)
    assert "not finite" in placement_fault(broken)


def test_parallel_axes_flatten_the_image_at_any_length() -> None:
    affine = np.eye(4)
    affine[:3, 1] = 5 * affine[:3, 0]
    assert placement_fault(affine) == "flatten the image"


def test_doubts_about_shear_and_spacing() -> None:
    sheared = np.eye(4)
    sheared[0, 2] = 0.1
    assert is_sheared(sheared)
    assert not is_sheared(np.diag([-2.0, 1, 5, 1]))
    assert list(doubts(np.diag([0.05, 20.0, 1, 1]))) == []
    assert ["unusual" in text for text in doubts(np.diag([1000.0, 1, 1, 1]))] == [True]
    assert ["right angles" in text for text in doubts(sheared)] == [True]


def test_values_that_are_not_finite_are_refused_or_replaced() -> None:
    array = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    with pytest.raises(StudyError, match="3 of 4 voxels"):
        finite(array.copy(), Path("a.nii"), "nifti-not-finite", None)
    (note,) = finite(array, Path("a.nii"), "nifti-not-finite", -7)
    assert array.tolist() == [1, -7, -7, -7]
    assert "3 voxels" in note
    assert finite(array, Path("a.nii"), "nifti-not-finite", None) == ()
