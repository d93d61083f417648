"""The two sides of a comparison: label maps of any format, brought onto one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from medvit.errors import StudyError
from medvit.evaluation.structures import ScoredStructure, matched, regions_beside, regions_of_segments
from medvit.studies.formats import format_of, read_header, read_label_map, read_voxels, series_at
from medvit.studies.grids import SAME_VOXEL, describe, describe_beside, joint_grid, place, same_voxels
from medvit.studies.study import Grid

# Structures of a side to compare; None for those that it does not describe.
Regions = Sequence[ScoredStructure | None]

# Tolerance of the sum of a voxel's probabilities around 1, for those stored in half precision.
_ROUNDING = 0.02
# Segmentations that reach over more than this many times their own voxels cover different regions.
_FAR_APART = 8


@dataclass(frozen=True)
class Side:
    """One label map of a comparison.

    Parameters
    ----------
    path
        File of the label map or image.
    label_map
        (X, Y, Z) uint16.
    grid
        Grid of the label map.
    segments
        Segments of a DICOM segmentation; empty for other formats.
    names
        Names of the values from the ``.json`` beside a label map; empty if there is none.
    probabilities
        (C, X, Y, Z) float32, C being the values of the label map from 0 on, where they are known.
    """

    path: Path
    label_map: np.ndarray
    grid: Grid
    segments: tuple[ScoredStructure, ...] = ()
    names: tuple[ScoredStructure, ...] = ()
    probabilities: np.ndarray | None = None

    @cached_property
    def values(self) -> set[int]:
        """The values that occur, except 0."""
        return {int(value) for value in np.flatnonzero(np.bincount(self.label_map.flat))} - {0}


def read_side(path: Path) -> Side:
    """A label map in NIfTI, NRRD or MetaImage, or a DICOM segmentation.

    Raises
    ------
    StudyError
        If it cannot be read, or is not a label map.
    """
    from medvit.studies.dicom.seg import read_segmentation

    if format_of(path) != "dicom":
        plain = read_label_map(path)
        return Side(path, plain.array, plain.grid, names=regions_beside(path))
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
    do = "give the softmax of all channels, background first, as a 4D NIfTI file"
    if format_of(path) != "nifti":
        raise StudyError("not-probabilities", "is not a 4D NIfTI file", path=path, do=do)
    header = read_header(series_at(path))
    p = np.empty((header.volumes, *header.grid.shape), np.float32)
    for volume in range(header.volumes):
        p[volume] = read_voxels(series_at(path, volume))[0]
    if len(p) < 2 or p.min() < 0 or np.abs(p.sum(axis=0) - 1).max() > _ROUNDING:
        what = "does not hold probabilities that sum to 1 over its volumes"
        raise StudyError("not-probabilities", what, path=path, do=do)
    return Side(
        path, p.argmax(axis=0).astype(np.uint16), header.grid, names=regions_beside(path), probabilities=p
    )


def regions_of(side: Side, regions: Sequence[ScoredStructure]) -> Regions:
    """`regions` as `side` has them: by name or code where it names its values, or else by their values.

    A region that is put together of several values, which no single name can match, is taken by its values
    where the names that do match have the values of `regions`.
    """
    own = side.segments or side.names
    found = matched(regions, own) if own else tuple(regions)
    same = all(
        b is None or len(a.values) > 1 or a.values == b.values for a, b in zip(regions, found, strict=True)
    )
    if not side.names or not same or side.segments:
        return found
    known = {value for region in own for value in region.values}
    return tuple(
        b or (a if len(a.values) > 1 and known.issuperset(a.values) else None)
        for a, b in zip(regions, found, strict=True)
    )


def on_one_grid(prediction: Side, reference: Side) -> tuple[Side, Side]:
    """Both sides on one grid.

    The axes of a label map may be stored in another order or direction. A DICOM segmentation leaves out
    frames without segments, and is laid onto the voxels of the other side, or both onto the voxels that hold
    them both. Nothing is resampled.

    Raises
    ------
    StudyError
        If the voxels of the two sides differ.
    """
    if not (prediction.segments or reference.segments):
        return _turned(prediction, reference.grid), reference
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


def _turned(side: Side, target: Grid) -> Side:
    """`side` with its axes in the order and direction of `target`, whose voxels it must have."""
    if side.grid.matches(target, SAME_VOXEL * min(target.spacing)):
        return side
    check_grids(side.path, side.grid, target)
    labels = place(side.label_map, side.grid, target)
    assert labels is not None, "the voxels are the same"
    p = side.probabilities
    if p is not None:
        turned = (place(channel, side.grid, target) for channel in p)
        p = np.stack([channel for channel in turned if channel is not None])
    return replace(side, label_map=labels, grid=target, probabilities=p)


def check_grids(prediction: Path, own: Grid, reference: Grid) -> None:
    """Raise `StudyError` where the voxels of a prediction are not those of its reference."""
    if not same_voxels(own, reference):
        raise _other_grid(prediction, own, reference)


def _other_grid(prediction: Path, own: Grid, reference: Grid) -> StudyError:
    what = f"lies on another grid ({describe(own)}) than its reference ({describe_beside(reference, own)})"
    do = "bring the prediction onto the reference's grid by nearest neighbour"
    return StudyError("other-grid", what, path=prediction, do=do)
