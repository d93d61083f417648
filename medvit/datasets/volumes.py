"""The images and label maps of a data set as volumes: their grids from headers, their voxels on demand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvit.errors import StudyError
from medvit.studies import dicom, itk_text, nifti
from medvit.studies.dicom.reader import plan
from medvit.studies.discover import format_of
from medvit.studies.study import Grid, Series


@dataclass(frozen=True)
class Volume:
    """An image file, or a folder with one DICOM series, of which the headers were read.

    Parameters
    ----------
    path
        The file or folder.
    format
        ``"nifti"``, ``"itk"`` or ``"dicom"``.
    grid
        Of one volume.
    count
        How many volumes the file holds.
    """

    path: Path
    format: str
    grid: Grid
    count: int = 1


def files_of(path: Path) -> list[Path]:
    """The file, or every file of the folder, in order."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def open_volume(path: Path) -> Volume:
    """What the headers of an image say; no voxel is read.

    Raises
    ------
    StudyError
        If it is no image, or its headers can be read in more than one way.
    """
    kind = "dicom" if path.is_dir() else format_of(path)
    if kind == "nifti":
        header = nifti.read_header(path)
        return Volume(path, kind, header.grid, header.volumes)
    if kind == "itk":
        return Volume(path, kind, itk_text.read_header(path).grid)
    if kind == "dicom":
        return Volume(path, kind, plan(files_of(path))[0].stack.grid)
    raise StudyError("no-image", "is no image", path=path, do="give NIfTI, NRRD, MetaImage or DICOM")


def read_voxels(volume: Volume, index: int = 0) -> np.ndarray:
    """The voxels of one volume of an image, scaled as its header says.

    Parameters
    ----------
    volume
        From `open_volume`.
    index
        Which of its volumes.

    Returns
    -------
    np.ndarray
        (X, Y, Z) float32.

    Raises
    ------
    StudyError
        If voxels are missing, damaged or not finite.
    """
    if volume.format == "nifti":
        return nifti.read_image(nifti.read_header(volume.path), index)[0]
    if volume.format == "itk":
        return itk_text.read_image(volume.path)[0]
    return dicom.read(Series(tuple(files_of(volume.path)), "dicom"), isolate=True)[0]


def value_counts(volume: Volume) -> dict[float, int]:
    """How many voxels of a label map hold each of its values.

    Raises
    ------
    StudyError
        If it cannot be read, or holds several volumes.
    """
    if volume.count > 1:
        what = f"holds {volume.count} volumes where a label map has one"
        raise StudyError("nifti-4d", what, path=volume.path, do="keep the volume that is the label map")
    voxels = read_voxels(volume).ravel()
    if voxels.min() >= 0 and voxels.max() <= 65_535 and np.array_equal(voxels.astype(np.uint16), voxels):
        counts = np.bincount(voxels.astype(np.uint16))
        return {float(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(voxels, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))
