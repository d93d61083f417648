"""Checks of every reader, for any format: implausible sizes, positions and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medvit.errors import StudyError

MAX_AXIS = 16_384
MAX_VOXELS = 2**30
BOMB_SIZE, BOMB_RATIO = 2**28, 200  # images of patients, especially large ones, do not compress 200-fold
BELIEVABLE_SPACING = (0.05, 20.0)  # mm; the user is told of others
BELIEVABLE_POSITION = 1e6  # mm; a larger number indicates damage


def size_fault(shape: Sequence[int]) -> str:
    """The fault of a size in voxels, as a clause; empty if there is none."""
    if all(1 <= n <= MAX_AXIS for n in shape) and np.prod(shape, dtype=float) <= MAX_VOXELS:
        return ""
    return f"states a size of {' x '.join(map(str, shape))} voxels"


def placement_fault(affine: np.ndarray) -> str:
    """The fault of a 4x4 affine to mm, as the end of "has axes that ..."; empty if there is none."""
    if not np.abs(affine).max() < BELIEVABLE_POSITION:  # false for NaN as well
        return "are not finite, or implausibly large"
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-6 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        return "flatten the image"
    return ""


def is_sheared(affine: np.ndarray) -> bool:
    """Whether the axes of the voxel grid are not at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3)


def doubts(affine: np.ndarray) -> Iterator[str]:
    """Remarks for the user, in sentences, on a grid that is read unchanged."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = BELIEVABLE_SPACING
    if lengths.min() < low or lengths.max() > high:
        stated = " x ".join(f"{length:.4g}" for length in lengths)
        yield f"The voxel spacing of {stated} mm is unusual for a patient; check the units."
    if is_sheared(affine):
        yield "The axes of the voxel grid are not at right angles; the sheared affine was kept."


def finite(array: np.ndarray, path: Path, code: str, non_finite: float | None) -> tuple[str, ...]:
    """Replace NaN and infinite voxels by `non_finite`, in the array itself, and return a note.

    Raises
    ------
    StudyError
        If there are such voxels and `non_finite` is ``None``.
    """
    good = np.isfinite(array)
    bad = int(array.size - np.count_nonzero(good))
    if not bad:
        return ()
    if non_finite is None:
        what = f"has {bad} of {array.size} voxels that are NaN or infinite"
        do = "replace them by the number that means 'no signal' in this image"
        raise StudyError(code, what, path=path, do=do)
    array[~good] = non_finite
    return (f"{bad} voxels that were NaN or infinite were set to {non_finite:g}.",)
