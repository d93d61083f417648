"""Label maps as DICOM Segmentation objects (PS3.3 A.51 BINARY and A.93 LABELMAP)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from medvit.errors import MedvitError
from medvit.studies.dicom_out.common import (
    Algorithm,
    equipment,
    identity,
    nameless,
    restore_names,
    side_of,
    sr_code,
)
from medvit.studies.dicom_out.source import Frame, SourceSeries
from medvit.studies.labels import LabelTable, Structure
from medvit.studies.study import Grid

Encoding = Literal["auto", "binary", "labelmap"]

# Above this many frames a BINARY object takes minutes to write and hundreds of megabytes to keep.
_MAX_BINARY_FRAMES = 2000


def segmentation(
    label_map: np.ndarray,
    grid: Grid,
    source: SourceSeries,
    table: LabelTable,
    algorithm: Algorithm,
    *,
    encoding: Encoding = "auto",
    by_hand: bool = False,
) -> Segmentation:
    """A label map as a DICOM SEG in the study of its source.

    All structures of the table are described, found or not, so that segment numbers are label values. In a
    BINARY object, a structure that was not found has one frame of background, and a map without any structure
    consists of such frames, since finding nothing is also a result.

    Parameters
    ----------
    label_map
        (X, Y, Z) integers, 0 for background, in the index order of `grid`: column, row, slice.
    grid
        Grid of the label map; each slice must lie on one frame of `source`.
    source
        The series that was segmented; slices and frames are matched by position.
    table
        Names, codes and colours of the label values.
    algorithm
        What made the label map.
    encoding
        ``"binary"`` is what most viewers read; ``"labelmap"`` (with JPEG-LS) stays small;
        ``"auto"`` takes BINARY up to 2,000 frames.
    by_hand
        Whether a person made or corrected the segments: they are then stated as SEMIAUTOMATIC, otherwise as
        AUTOMATIC.

    Raises
    ------
    MedvitError
        If the label map does not have the shape of `grid`, or holds values that are not in the table.
    StudyError
        If a slice does not lie on a frame of the source.
    """
    check_label_map(label_map, grid, table)
    frames = source.frames_of(grid)
    # highdicom requires (slice, row, column).
    planes = np.ascontiguousarray(label_map.transpose(2, 1, 0).astype(np.uint8, copy=False))
    if encoding == "auto":
        encoding = "binary" if _binary_frames(planes, len(table)) <= _MAX_BINARY_FRAMES else "labelmap"
    binary = encoding == "binary"
    result = Segmentation(
        pixel_array=planes,
        **_placed(frames),
        segmentation_type="BINARY" if binary else "LABELMAP",
        segment_descriptions=[_describe(s, algorithm, by_hand) for s in table],
        transfer_syntax_uid=ExplicitVRLittleEndian if binary else JPEGLSLossless,
        omit_empty_frames=bool(planes.any()),
        content_label="SEGMENTATION",
        content_description=f"{table.name} structures"[:64],
        content_creator_name=None,
        **identity(source, 1, f"{algorithm.name} segmentation"),
        **equipment(algorithm),
    )
    restore_names(result, source)
    absent = [s.value for s in table if not (planes == s.value).any()]
    return _with_background(result, absent) if binary and planes.any() else result


def _with_background(segmentation: Segmentation, numbers: list[int]) -> Segmentation:
    """Add a frame of background for each of some segments: OHIF fails on a segment without a frame."""
    groups = segmentation.PerFrameFunctionalGroupsSequence
    for number in numbers:
        group = deepcopy(groups[0])
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
        group.FrameContentSequence[0].DimensionIndexValues[0] = number
        groups.append(group)
    segmentation.NumberOfFrames = len(groups)
    size = -(-len(groups) * segmentation.Rows * segmentation.Columns // 8)
    segmentation.PixelData = segmentation.PixelData.ljust(size + size % 2, b"\0")  # bits after a frame are 0
    return Segmentation.from_dataset(segmentation, copy=False)


def check_label_map(label_map: np.ndarray, grid: Grid, table: LabelTable) -> None:
    """Raise `MedvitError` if a label map does not fit its grid or its table."""
    if label_map.shape != grid.shape:
        raise MedvitError(f"the label map is {label_map.shape} and its grid {grid.shape}; they must be equal")
    if not np.issubdtype(label_map.dtype, np.integer):
        raise MedvitError(f"a label map holds integers, not {label_map.dtype}; round it first")
    low, high = int(label_map.min()), int(label_map.max())
    if low < 0 or high > len(table):
        raise MedvitError(
            f"the label map holds values from {low} to {high}, and the label table {table.name!r} names 1 to "
            f"{len(table)}; use the table of the bundle that made it"
        )
    if len(table) > 255:
        raise MedvitError(
            f"label table {table.name!r} has {len(table)} structures; DICOM SEG is written up to 255"
        )


def _binary_frames(planes: np.ndarray, structures: int) -> int:
    """Number of frames of a BINARY object: one for each structure on each slice that shows it."""
    shown = sum(np.count_nonzero(np.bincount(p.ravel(), minlength=1)[1:]) for p in planes)
    return int(shown) or structures * len(planes)


def _placed(frames: list[Frame]) -> dict[str, Any]:
    """Source images in the order of the slices, and for a multi-frame one the position of each slice."""
    if frames[0].number is None:
        return {"source_images": [nameless(f.image) for f in frames]}
    positions = [
        f.image.PerFrameFunctionalGroupsSequence[f.number - 1].PlanePositionSequence[0].ImagePositionPatient
        for f in frames
        if f.number is not None
    ]
    return {
        "source_images": [nameless(frames[0].image)],
        "plane_positions": [hd.PlanePositionSequence("PATIENT", p) for p in positions],
    }


def _describe(structure: Structure, algorithm: Algorithm, by_hand: bool) -> SegmentDescription:
    description = SegmentDescription(
        segment_number=structure.value,
        segment_label=structure.name[:64],
        segmented_property_category=sr_code(structure.category),
        segmented_property_type=sr_code(structure.code),
        algorithm_type="SEMIAUTOMATIC" if by_hand else "AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm.version,
            source="medvit",
            parameters=algorithm.parameters or None,
        ),
        display_color=CIELabColor.from_rgb(*structure.color),
    )
    side = side_of(structure)
    if side is not None:
        modifier = hd.sr.CodedConcept(side.value, side.scheme_designator, side.meaning)
        structure_type = description.SegmentedPropertyTypeCodeSequence[0]
        structure_type.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description
