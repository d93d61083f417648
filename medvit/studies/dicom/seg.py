"""DICOM Segmentation objects (PS3.3 A.51, A.93) read as label maps, with descriptions of their segments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import StudyError
from medvit.studies.labels import Code
from medvit.studies.study import Grid

_STORAGE = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # binary or fractional, label map
_SIDES = {"7771000": "left", "24028007": "right", "G-A101": "left", "G-A100": "right"}  # SNOMED CT, and RT
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Segment:
    """One structure of a segmentation.

    Parameters
    ----------
    number
        Its value in the label map.
    label
        Segment Label (0062,0005), as stored in the file.
    code
        Segmented Property Type.
    side
        ``"left"``, ``"right"`` or ``""``, from the modifier of the type.
    """

    number: int
    label: str
    code: Code
    side: str = ""

    @property
    def name(self) -> str:
        """The label, with its side in front if the label does not name the side."""
        if not self.side or re.search(rf"\b{self.side}\b", self.label.replace("_", " "), re.IGNORECASE):
            return self.label
        return f"{self.side} {self.label}"


@dataclass(frozen=True)
class Segmentation:
    """A segmentation as a label map.

    Parameters
    ----------
    label_map
        (X, Y, Z) uint16 segment numbers; frames without segments at its ends are usually left out.
    grid
        Grid of its voxels.
    segments
        Segments in order of number.
    """

    label_map: np.ndarray
    grid: Grid
    segments: tuple[Segment, ...]


def is_segmentation(path: Path) -> bool:
    """Whether a DICOM file is a segmentation, by its SOP class."""
    import pydicom

    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"], force=True)
    return str(header.get("SOPClassUID", "")) in _STORAGE


def read_segmentation(path: Path) -> Segmentation:
    """Read a DICOM segmentation.

    Raises
    ------
    StudyError
        If it is not a segmentation, segments overlap or are fractional, or its frames do not form a volume.
    """
    import highdicom as hd

    try:
        seg = hd.seg.segread(path)
    except Exception as error:
        what = f"is not a readable DICOM segmentation ({error})"
        raise StudyError("dicom-seg-unreadable", what, path=path, do="give the SEG object") from error
    segments = tuple(_segment(seg.get_segment_description(n), n) for n in sorted(seg.segment_numbers))
    try:
        volume = seg.get_volume(combine_segments=True, dtype=np.uint16)
    except (RuntimeError, ValueError) as error:
        what = f"is not a label map: {str(error).rstrip('.')}"
        raise StudyError("dicom-seg-no-label-map", what, path=path, do="save it as a label map") from error
    x, y, z = volume.spatial_shape
    return Segmentation(volume.array, Grid((x, y, z), _RAS_FROM_LPS @ volume.affine), segments)


def _segment(description: Any, number: int) -> Segment:
    kind = description.segmented_property_type
    code = Code(str(kind.value), str(kind.meaning), str(kind.scheme_designator))
    return Segment(number, str(description.segment_label).strip(), code, next(_sides(kind), ""))


def _sides(kind: Any) -> Iterator[str]:
    for modifier in kind.get("SegmentedPropertyTypeModifierCodeSequence", ()):
        if str(modifier.get("CodeValue", "")) in _SIDES:
            yield _SIDES[str(modifier.CodeValue)]
