"""Stacks acquired at a tilt, made upright: each plane is moved by its displacement against the first."""

from __future__ import annotations

import math

import numpy as np

from medvit.studies.dicom.stacking import Stack
from medvit.studies.study import Grid


def upright(volume: np.ndarray, stack: Stack) -> tuple[np.ndarray, Grid]:
    """Resample a sheared volume to the right-angled grid that holds all of it.

    Parameters
    ----------
    volume
        (X, Y, Z) on the stack's grid.
    stack
        The planes and their sheared grid.

    Returns
    -------
    np.ndarray
        (X', Y', Z) float32, linear within the planes, the volume's minimum where nothing was imaged.
    Grid
        The same voxel size within the planes, the distance between planes along their normal.
    """
    from scipy import ndimage  # slow to import, and tilts are rare

    count = volume.shape[2]
    shifts = np.outer(np.arange(count), stack.shear)
    low = np.floor(shifts.min(axis=0))
    high = np.ceil(shifts.max(axis=0))
    shape = tuple(int(n + h - b) for n, h, b in zip(volume.shape[:2], high, low, strict=True))
    air = float(volume.min())
    # Planes stay contiguous in memory, as from the reader.
    out = np.full((count, shape[1], shape[0]), air, np.float32).transpose(2, 1, 0)
    for k in range(count):
        offset = low - shifts[k]
        ndimage.affine_transform(
            volume[:, :, k], np.ones(2), offset, output=out[:, :, k], output_shape=shape, order=1, cval=air
        )
    affine = stack.grid.affine.copy()
    affine[:3, 3] += affine[:3, :2] @ low
    affine[:3, 2] -= affine[:3, :2] @ np.array(stack.shear)
    return out, Grid((shape[0], shape[1], count), affine)


def angle(stack: Stack) -> float:
    """Degrees between the stacking direction and the planes' normal."""
    step = stack.grid.affine[:3, 2] * (-1, -1, 1)
    return math.degrees(math.acos(min(1.0, abs(step @ stack.planes[0].normal) / float(np.linalg.norm(step)))))
