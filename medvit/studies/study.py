"""`Study`: one examination of one patient, as files; `LoadedStudy`: the same with its voxels."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from medvit.studies.labels import LabelTable


@dataclass(frozen=True)
class Grid:
    """A voxel grid in the patient.

    Parameters
    ----------
    shape
        Voxels along the three axes, in index order (a 2D image has a trailing 1).
    affine
        4x4, voxel index to RAS+ patient millimetres (the NIfTI world).
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each axis, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm^3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def matches(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether both grids place every voxel equally, to `tolerance` mm at the corners."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1)
        homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
        return bool(np.abs((self.affine - other.affine) @ homogeneous).max() <= tolerance)


@dataclass(frozen=True)
class LabelMap:
    """Labels, with their place and meaning.

    Parameters
    ----------
    array
        (X, Y, Z) integers, 0 for background.
    grid
        Grid of the voxels.
    table
        The structures by value; ``None`` if unknown.
    """

    array: np.ndarray
    grid: Grid
    table: LabelTable | None = None

    @property
    def values(self) -> set[int]:
        """The values that occur, except 0."""
        return {int(value) for value in np.flatnonzero(np.bincount(self.array.ravel()))} - {0}


@dataclass(frozen=True)
class Series:
    """The source of one image channel.

    Parameters
    ----------
    paths
        The file, or for DICOM all files of the series.
    format
        One of `medvit.studies.formats.SUFFIXES`, such as ``"nifti"``, ``"dicom"`` or ``"itk"`` (NRRD,
        MetaImage).
    facts
        Facts from the headers without reading pixels: modality, description, study date, ... Never a
        patient's name or identifier; those are in `Study.patient`.
    """

    paths: tuple[Path, ...]
    format: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """One examination of one patient.

    Parameters
    ----------
    id
        Id that is unique in a run and safe as a folder name; does not contain a patient identifier.
    series
        One entry for each image channel.
    patient
        Identifying facts (name, identifier, birth date). Kept out of `repr` so that no log shows them.
    notes
        Sentences on decisions of the reader that the user should know.
    """

    id: str
    series: tuple[Series, ...]
    patient: dict[str, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The first file of the study, by which messages name it."""
        return self.series[0].paths[0]


@dataclass(frozen=True, kw_only=True)
class LoadedStudy(Study):
    """A study that has been read.

    Parameters
    ----------
    image
        (C, X, Y, Z) float32, in the index order of the source, with an affine that maps voxels to RAS+
        millimetres.
    grid
        The grid of the source, on which results are written voxel for voxel.
    """

    image: MetaTensor
    grid: Grid

    @classmethod
    def of(cls, study: Study, image: MetaTensor, grid: Grid, *notes: str) -> LoadedStudy:
        """`study` with its image, and further notes."""
        known = {part.name: getattr(study, part.name) for part in fields(Study)}
        return cls(**known | {"notes": study.notes + notes}, image=image, grid=grid)
