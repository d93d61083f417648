"""Position of a voxel grid in the patient: names of its faces, obliquity, and display order."""

from __future__ import annotations

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from medvit.studies.study import Grid

_LOW_HIGH = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


def face_names(affine: np.ndarray) -> list[tuple[str, str]]:
    """For each voxel axis, the side of the patient at its first and at its last voxel (closest axis)."""
    names = []
    for world_axis, direction in _orientation(affine):
        low, high = _LOW_HIGH[int(world_axis)]
        names.append((low, high) if direction > 0 else (high, low))
    return names


def obliquity(affine: np.ndarray) -> float:
    """Largest angle in degrees between a voxel axis and the patient axis closest to it."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = [abs(directions[int(w), v]) for v, (w, _) in enumerate(_orientation(affine))]
    return float(np.degrees(np.arccos(np.clip(min(cosines), 0.0, 1.0))))


def to_display_order(volume: np.ndarray, grid: Grid) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Turn a volume, without interpolation, so that its axes run to the patient's left, back and feet.

    That is the order of rows and columns in a radiological picture: patient left on the right of the image.

    Returns
    -------
    volume
        (X, Y, Z) view; axis 0 runs right to left, axis 1 front to back, axis 2 head to feet.
    spacing
        In mm, in the new order.
    """
    source = _orientation(grid.affine)
    turn = ornt_transform(source, axcodes2ornt(("L", "P", "I")))
    spacing = np.empty(3)
    spacing[source[:, 0].astype(int)] = grid.spacing
    x, y, z = (float(s) for s in spacing)
    return apply_orientation(volume, turn), (x, y, z)


def _orientation(affine: np.ndarray) -> np.ndarray:
    return io_orientation(affine)
