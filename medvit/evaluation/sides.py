"""The two sides of a comparison: label maps of any format, brought onto one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from medvit.errors import StudyError
from medvit.evaluation.structures import Region, matched, regions_of_segments
from medvit.studies.grids import SAME_VOXEL, joint_grid, place
from medvit.studies.study import Grid

# What a side has of the structures to compare; None for those that it does not describe.
Regions = Sequence[Region | None]

# How far from 1 the probabilities of a voxel may sum, as those kept in half precision do.
_ROUNDING = 0.02
# Segmentations that reach over more than this many times their own voxels are of different places.
_FAR_APART = 8


@dataclass(frozen=True)
class Side:
    """One label map of a comparison.

    Parameters
    ----------
    path
        Its file.
    label_map
        (X, Y, Z) uint16.
    grid
        Where it lies.
    segments
        What a DICOM segmentation says of its values; empty for other formats.
    probabilities
        (C, X, Y, Z) float32, C being the values of the label map from 0 on, where they are known.
    """

    path: Path
    label_map: np.ndarray
    grid: Grid
    segments: tuple[Region, ...] = ()
    probabilities: np.ndarray | None = None

    @cached_property
    def values(self) -> set[int]:
        """Those that occur, but 0."""
        return {int(value) for value in np.flatnonzero(np.bincount(self.label_map.flat))} - {0}


def read_side(path: Path) -> Side:
    """A label map in NIfTI, NRRD or MetaImage, or a DICOM segmentation.

    Raises
    ------
    StudyError
        If it cannot be read, or is no label map.
    """
    from medvit.studies.dicom.seg import read_segmentation
    from medvit.studies.discover import format_of

    if format_of(path) != "dicom":
        return Side(path, *read_label_map(path))
    found = read_segmentation(path)
    return Side(path, found.label_map, found.grid, regions_of_segments(found.segments))


def read_probabilities(path: Path) -> Side:
    """Probabilities of the background and each structure, the volumes of a 4D NIfTI file.

    The label map is the most probable value.

    Raises
    ------
    StudyError
        If the file cannot be read, or does not hold probabilities that sum to 1.
    """
    from medvit.studies import nifti

    do = "give the softmax of all channels, background first, as a 4D NIfTI file"
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise StudyError("not-probabilities", "is no 4D NIfTI file", path=path, do=do)
    header = nifti.read_header(path)
    p = np.empty((header.volumes, *header.grid.shape), np.float32)
    for volume in range(header.volumes):
        p[volume] = nifti.read_image(header, volume)[0]
    if len(p) < 2 or p.min() < 0 or np.abs(p.sum(axis=0) - 1).max() > _ROUNDING:
        what = "does not hold probabilities that sum to 1 over its volumes"
        raise StudyError("not-probabilities", what, path=path, do=do)
    return Side(path, p.argmax(axis=0).astype(np.uint16), header.grid, probabilities=p)


def regions_of(side: Side, regions: Sequence[Region]) -> Regions:
    """`regions` as `side` has them: of a DICOM segmentation by name or code, or else by their values."""
    return matched(regions, side.segments) if side.segments else regions


def read_voxels(path: Path) -> tuple[np.ndarray, Grid]:
    """(X, Y, Z) float32 voxels of a NIfTI, NRRD or MetaImage file, and their grid.

    Raises
    ------
    StudyError
        If the file cannot be read.
    """
    from medvit.studies import itk_text, nifti

    if path.name.lower().endswith((".nii", ".nii.gz")):
        header = nifti.read_header(path)
        return nifti.read_image(header)[0], header.grid
    values, grid, _ = itk_text.read_image(path)
    return values, grid


def read_label_map(path: Path) -> tuple[np.ndarray, Grid]:
    """(X, Y, Z) uint16 labels and their grid.

    Raises
    ------
    StudyError
        If the file cannot be read, or holds anything but integers from 0 to 65535.
    """
    values, grid = read_voxels(path)
    labels = values.clip(0, 65535).astype(np.uint16)
    if not np.array_equal(labels, values):
        what = "is no label map, for it holds values other than integers from 0 to 65535"
        do = "give the label map, resampled by nearest neighbour if at all"
        raise StudyError("not-a-label-map", what, path=path, do=do)
    return labels, grid


def on_one_grid(prediction: Side, reference: Side) -> tuple[Side, Side]:
    """Both sides on one grid.

    A DICOM segmentation leaves out frames without segments, and has the axes of its source: it is laid onto
    the voxels of the other side, or both onto the voxels that hold them both. Nothing is resampled.

    Raises
    ------
    StudyError
        If the voxels of one are not those of the other.
    """
    if not (prediction.segments or reference.segments):
        check_grids(prediction.path, prediction.grid, reference.grid)
        return prediction, reference
    target = reference.grid if not reference.segments else prediction.grid
    if prediction.segments and reference.segments:
        target = joint_grid(reference.grid, prediction.grid)
        if np.prod(target.shape) > _FAR_APART * (prediction.label_map.size + reference.label_map.size):
            raise _other_grid(prediction.path, prediction.grid, reference.grid)
    placed = []
    for side in (prediction, reference):
        labels = place(side.label_map, side.grid, target) if side.segments else side.label_map
        if labels is None:
            raise _other_grid(prediction.path, prediction.grid, reference.grid)
        placed.append(replace(side, label_map=labels, grid=target))
    return placed[0], placed[1]


def check_grids(prediction: Path, own: Grid, reference: Grid) -> None:
    """Raise `StudyError` where the grid of a prediction is another one than that of its reference."""
    if not own.matches(reference, SAME_VOXEL * min(reference.spacing)):
        raise _other_grid(prediction, own, reference)


def _other_grid(prediction: Path, own: Grid, reference: Grid) -> StudyError:
    shapes = [" x ".join(map(str, grid.shape)) for grid in (own, reference)]
    spacings = [" x ".join(f"{length:.3g}" for length in grid.spacing) for grid in (own, reference)]
    what = f"lies on another grid ({shapes[0]} voxels of {spacings[0]} mm) than its reference " + (
        f"({shapes[1]} voxels of {spacings[1]} mm)"
        if (shapes[0], spacings[0]) != (shapes[1], spacings[1])
        else "(of equal size, but placed or turned otherwise)"
    )
    do = "bring the prediction onto the reference's grid by nearest neighbour"
    return StudyError("other-grid", what, path=prediction, do=do)
