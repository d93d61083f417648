"""DICOM SEG in and out of the label store: segment numbers are label values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset

from medvit.label.errors import RequestError
from medvit.label.volumes import labels_on
from medvit.studies import Grid, LabelTable, LoadedStudy
from medvit.studies.dicom import seg as dicom_seg
from medvit.studies.dicom_out import Algorithm, read_source, save_dicom, segmentation
from medvit.studies.labels import renumbered


def write_segmentation(
    path: Path,
    labels: np.ndarray,
    study: LoadedStudy,
    table: LabelTable,
    algorithm: Algorithm,
    *,
    by_hand: bool = False,
) -> Path:
    """Write (X, Y, Z) `labels` on the grid of `study` as DICOM SEG; `by_hand` says that a person saved them.

    Raises
    ------
    RequestError
        If the study did not come as DICOM.
    """
    series = study.series[0]
    if series.format != "dicom":
        raise RequestError("DICOM SEG can only be made of studies that are DICOM; ask for an image instead")
    labels = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    source = read_source(series.paths)
    if not by_hand:  # people may have drawn any structure, and read their labels back
        labels, table = renumbered(labels, table)
    save_dicom(segmentation(labels, study.grid, source, table, algorithm, by_hand=by_hand), path)
    return path


def is_by_hand(header: Dataset) -> bool:
    """Whether a person made a DICOM SEG, according to the algorithm type of its segments."""
    types = {str(segment.get("SegmentAlgorithmType")) for segment in header.get("SegmentSequence", [])}
    return bool(types) and types <= {"MANUAL", "SEMIAUTOMATIC"}


def read_segmentation(path: Path, target: Grid) -> tuple[np.ndarray, list[str]]:
    """Label values on a grid, and their names in order of value.

    Parameters
    ----------
    path
        A DICOM SEG.
    target
        Usually the grid of the segmented series.

    Returns
    -------
    labels
        (X, Y, Z) uint16: the segment number at each voxel.
    names
        Segment labels by number; a number that is not used has an empty name.

    Raises
    ------
    StudyError
        If segments overlap, or the object cannot be laid out as a volume.
    """
    found = dicom_seg.read_segmentation(path)
    names = [""] * found.segments[-1].number
    for segment in found.segments:
        names[segment.number - 1] = segment.label
    return labels_on(target, found.label_map, found.grid), names
