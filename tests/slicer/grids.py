"""Grids as volumes in 3D Slicer have them: axes along, against and across those of the patient."""

import numpy as np
from MedViTLib.volume import Volume


def _affine(directions: object, spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, dtype=float) * spacing
    affine[:3, 3] = (-31.5, 12.25, 7.125)
    return affine


_TILT = np.array([[1, 0, 0], [0, np.cos(0.4), -np.sin(0.4)], [0, np.sin(0.4), np.cos(0.4)]])
_TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
AFFINES = {
    "RAS": _affine(np.eye(3), (0.5, 1.0, 2.0)),
    "LPS": _affine(np.diag([-1, -1, 1]), (0.5, 1.0, 2.0)),
    "oblique": _affine(_TILT @ _TURN, (0.5, 1.0, 2.0)),
    "oblique and permuted": _affine((_TILT @ _TURN)[:, [2, 0, 1]], (0.5, 1.0, 2.0)),
    "permuted": _affine([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], (0.5, 1.0, 2.0)),
}


def phantom(name: str = "RAS", shape: tuple[int, int, int] = (7, 6, 5), dtype: str = "i2") -> Volume:
    """A volume in which every voxel has a value of its own."""
    return Volume(np.arange(np.prod(shape)).reshape(shape).astype(dtype), AFFINES[name], "phantom")
