"""`Volume`: voxels and where they are in the patient, between 3D Slicer's convention and that of medvit."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .errors import MedViTError


@dataclass(frozen=True)
class Volume:
    """Voxels on a grid.

    Parameters
    ----------
    voxels
        (I, J, K).
    affine
        4x4, voxel index to RAS+ millimetres; MRML calls it IJKToRAS.
    name
        Name of the volume in the scene.

    Raises
    ------
    MedViTError
        If this is not a volume with one value at each voxel, or its axes do not span space.
    """

    voxels: np.ndarray
    affine: np.ndarray
    name: str = "volume"

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or self.voxels.size == 0:
            raise MedViTError(
                f"{self.name} has shape {self.voxels.shape}; choose a volume with one value at each voxel"
            )
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all() or self.voxel_ml < 1e-12:
            raise MedViTError(
                f"the axes of {self.name} do not span space; correct its spacing and directions"
            )

    @classmethod
    def from_mrml(cls, array: np.ndarray, ijk_to_ras: np.ndarray, name: str) -> Volume:
        """From ``slicer.util.arrayFromVolume``, whose axes are K, J, I."""
        return cls(np.asarray(array).T, np.array(ijk_to_ras, dtype=float), name)

    def to_mrml(self) -> tuple[np.ndarray, np.ndarray]:
        """For ``slicer.util.addVolumeFromArray``: a (K, J, I) array and IJKToRAS."""
        return np.ascontiguousarray(self.voxels.T), self.affine

    @property
    def file_name(self) -> str:
        """A name for a file with this volume; it becomes that of the study, in refusals and reports too."""
        plain = re.sub(r"[^\w-]+", "_", self.name).strip("_")
        return f"{plain or 'volume'}.nii.gz"

    @property
    def spacing(self) -> np.ndarray:
        """Distance of neighbouring voxels along I, J and K, in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def same_grid(self, other: Volume) -> bool:
        """Whether voxel for voxel is at the same place, to a thousandth of a voxel."""
        if self.voxels.shape != other.voxels.shape:
            return False
        to_other = np.linalg.inv(other.affine) @ self.affine
        corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
        corners[:, :3] *= np.array(self.voxels.shape) - 1
        return bool(np.abs(corners @ to_other.T - corners).max() < 1e-3)


def renumbered(volume: Volume, values: list[int]) -> Volume:
    """The same label map with 1, 2, ... in place of `values`; any other value stays without a label."""
    if values == list(range(1, len(values) + 1)):
        return volume
    voxels = np.where(volume.voxels == 0, 0, -1)
    for number, value in enumerate(values, start=1):
        voxels[volume.voxels == value] = number
    return Volume(voxels, volume.affine, volume.name)


def as_label_map(volume: Volume, labels: tuple[str, ...]) -> Volume:
    """The same volume with integer values, each of which has a name.

    Parameters
    ----------
    volume
        A label map in any data type.
    labels
        Names of the values 1, 2, ...

    Raises
    ------
    MedViTError
        If a value is not a label: names go by position, so any other reading would name structures wrongly.
    """
    voxels = volume.voxels
    odd = voxels[(voxels != np.round(voxels)) | (voxels < 0) | (voxels > len(labels))]
    if odd.size:
        raise MedViTError(
            f"the label map holds {odd.flat[0]}, but the bundle names the values 1 to {len(labels)}; "
            "its label table and its weights do not belong together"
        )
    dtype = np.uint8 if len(labels) < 256 else np.int16
    return Volume(voxels.astype(dtype), volume.affine, volume.name)


def volumes_ml(label_map: Volume, labels: tuple[str, ...]) -> dict[str, float]:
    """Volume of each structure of a label map, by name."""
    counts = np.bincount(label_map.voxels.ravel(), minlength=len(labels) + 1)
    return {name: float(counts[value] * label_map.voxel_ml) for value, name in enumerate(labels, start=1)}
