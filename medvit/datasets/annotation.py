"""The label map of a case, from a file or a DICOM segmentation, on the voxel grid of its image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medvit.errors import MedvitError, StudyError
from medvit.studies.formats import format_of, read_label_map
from medvit.studies.grids import describe, describe_beside, place, same_voxels
from medvit.studies.labels import LabelTable
from medvit.studies.manifests.model import Manifest
from medvit.studies.study import Grid

# In voxels over the whole image: headers of different formats agree to this precision.
_TOLERANCE = 0.05


def read_annotation(path: Path, grid: Grid, manifest: Manifest) -> np.ndarray:
    """Read a case's label map on the grid of its image, in the values of the manifest's label table.

    Parameters
    ----------
    path
        NIfTI, NRRD or MetaImage with the file values of the manifest; or a DICOM segmentation, or a folder
        with one, whose segments are matched to the table by name, or otherwise by SNOMED CT code and side.
    grid
        Grid of the image. The label map may store its axes in another order, but must have the same voxels.

    Returns
    -------
    numpy.ndarray
        (X, Y, Z) uint8, or uint16 from 256 structures on.

    Raises
    ------
    StudyError
        If the label map cannot be read, lies on another grid, or holds values that the manifest does not
        define.
    """
    segmentation = _segmentation_at(path)
    if segmentation is None:
        labels, own = _read_file(path, manifest)
        # A file covers the whole image; a segmentation leaves out frames without segments.
        placed = place(labels, own, grid, _TOLERANCE) if same_voxels(own, grid, _TOLERANCE) else None
    else:
        assert manifest.labels is not None, "only segmentation data sets have label maps"
        labels, own = _read_segmentation(segmentation, manifest.labels)
        placed = place(labels, own, grid, _TOLERANCE)
    if placed is None:
        what = f"its voxels ({describe(own)}) are not those of its image ({describe_beside(grid, own)})"
        do = "save the label map on the grid of its image"
        raise StudyError("label-other-grid", what, path=path, do=do)
    return placed


def _segmentation_at(path: Path) -> Path | None:
    """The DICOM segmentation at or in `path`; `None` for files of other formats."""
    from medvit.studies.dicom.seg import is_segmentation

    if path.is_file():
        return path if format_of(path) == "dicom" else None
    files = sorted(file for file in path.rglob("*") if file.is_file())
    found = [file for file in files if format_of(file) == "dicom" and is_segmentation(file)]
    if len(found) != 1:
        what = f"holds {len(found)} DICOM segmentations where one is needed"
        raise StudyError("not-one-segmentation", what, path=path, do="name the file of the segmentation")
    return found[0]


def _read_file(path: Path, manifest: Manifest) -> tuple[np.ndarray, Grid]:
    found = read_label_map(path)
    try:
        return manifest.to_table(found.array), found.grid
    except MedvitError as error:
        do = "name the value in the manifest"
        raise StudyError("unknown-label", str(error), path=path, do=do) from None


def _read_segmentation(path: Path, table: LabelTable) -> tuple[np.ndarray, Grid]:
    """Values of `table` as far as the segmentation reaches, and the grid of that part."""
    from medvit.evaluation.structures import matched, regions_of_segments, regions_of_table
    from medvit.studies.dicom.seg import read_segmentation

    found = read_segmentation(path)
    segments = regions_of_segments(found.segments)
    known = matched(regions_of_table(table), segments)
    if unknown := [segment.name for segment in segments if segment not in known]:
        what = f"segment {unknown[0]!r} is not one of {', '.join(s.name for s in table)}"
        do = "rename the segment, or add it to the labels of the manifest"
        raise StudyError("unknown-segment", what, path=path, do=do)
    labels = np.zeros(found.label_map.shape, np.uint8 if len(table) < 256 else np.uint16)
    for structure, region in zip(table, known, strict=True):
        if region is not None:
            labels[region.mask(found.label_map)] = structure.value
    return labels, found.grid
