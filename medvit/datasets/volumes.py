"""The images and label maps of a data set as volumes: their grids from headers, their voxels on demand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvit.errors import StudyError
from medvit.studies.formats import read_header, read_voxels, series_at
from medvit.studies.study import Grid


@dataclass(frozen=True)
class VolumeHeader:
    """An image file, or a folder with one DICOM series, of which the headers were read.

    Parameters
    ----------
    path
        The file or folder.
    grid
        Grid of one volume.
    count
        Number of volumes in the file.
    """

    path: Path
    grid: Grid
    count: int = 1

    def voxels(self, index: int = 0) -> np.ndarray:
        """(X, Y, Z) float32 voxels of one of its volumes, scaled as its header says.

        Raises
        ------
        StudyError
            If voxels are missing, damaged or not finite.
        """
        return read_voxels(series_at(self.path, index if self.count > 1 else None))[0]


def open_volume(path: Path) -> VolumeHeader:
    """An image's headers; no voxel is read.

    Raises
    ------
    StudyError
        If it is not an image, or its headers are ambiguous.
    """
    header = read_header(series_at(path))
    return VolumeHeader(path, header.grid, header.volumes)


def value_counts(volume: VolumeHeader) -> dict[float, int]:
    """The number of voxels of a label map with each of its values.

    Raises
    ------
    StudyError
        If it cannot be read, or holds several volumes.
    """
    if volume.count > 1:
        what = f"holds {volume.count} volumes where a label map has one"
        raise StudyError("nifti-4d", what, path=volume.path, do="keep the volume that is the label map")
    voxels = volume.voxels().ravel()
    if voxels.min() >= 0 and voxels.max() <= 65_535 and np.array_equal(voxels.astype(np.uint16), voxels):
        counts = np.bincount(voxels.astype(np.uint16))
        return {float(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(voxels, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))
