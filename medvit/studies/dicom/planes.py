"""Every image of a file as a `Plane`: a rectangle of voxels at its place in the patient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medvit.errors import StudyError
from medvit.studies.dicom.headers import Attributes, Header
from medvit.studies.gate import BELIEVABLE_POSITION

# Largest width of a frame, and largest number of voxels of a volume (8 GiB as float32).
MAX_EDGE = 16384
MAX_VOXELS = 2**31
# Wider pixels indicate damage or another unit.
MAX_SPACING_MM = 100.0


@dataclass(frozen=True)
class Rescale:
    """The conversion from stored to real values.

    Parameters
    ----------
    slope, intercept
        RescaleSlope and RescaleIntercept.
    type
        RescaleType, the meaning of the real values; ``""`` if the header states none.
    stated
        Whether the header states a rescale at all; if not, stored values are used unchanged.
    """

    slope: float = 1.0
    intercept: float = 0.0
    type: str = ""
    stated: bool = False


@dataclass(frozen=True)
class Plane:
    """One image of a series, and its place.

    Parameters
    ----------
    header
        The file's attributes.
    frame
        Index of the frame in the file.
    shape
        (rows, columns) of the image.
    position, orientation
        ImagePositionPatient and ImageOrientationPatient: LPS millimetres, and the directions in which the
        column index and the row index grow.
    spacing
        PixelSpacing: millimetres between rows, and between columns.
    thickness
        Step between slices according to the header; ``None`` if it states none. Only a single slice needs it;
        the step of a stack follows from its positions.
    rescale
        From stored to real values.
    kind
        ImageType or FrameType: planes of different kinds never form one volume.
    marks
        What may distinguish the images at one position (time, echo, b-value, ...).
    corner
        Row and column at which the plane starts in its frame; not (0, 0) in a mosaic.
    """

    header: Header
    frame: int
    shape: tuple[int, int]
    position: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]
    thickness: float | None
    rescale: Rescale
    kind: tuple[str, ...]
    marks: dict[str, Any] = field(default_factory=dict)
    corner: tuple[int, int] = (0, 0)

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the plane, completing a right-handed frame."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return normal / np.linalg.norm(normal)


def frame_shape(header: Header) -> tuple[int, int, int]:
    """(frames, rows, columns) that the header declares, within reasonable limits.

    Raises
    ------
    StudyError
        If one is missing, not positive, or implausibly large.
    """
    rows, columns = int(header.need("Rows")[0]), int(header.need("Columns")[0])
    frames = int(header.number("NumberOfFrames") or 1)
    for keyword, value in (("Rows", rows), ("Columns", columns), ("NumberOfFrames", frames)):
        if value < 1:
            raise header.fault("dicom-bad-value", f"the value ({value}) is not positive", keyword)
    if max(rows, columns) > MAX_EDGE or rows * columns * frames > MAX_VOXELS:
        what = f"the header declares {frames} frames of {rows} x {columns}, more than can be an image"
        raise header.fault("dicom-too-large", what, "NumberOfFrames" if frames > 1 else "Rows")
    return frames, rows, columns


def check_grey(header: Header) -> None:
    """Refuse everything but images with one grey value per pixel.

    Raises
    ------
    StudyError
        For colour, palettes, and a nonlinear conversion from stored to real values.
    """
    photometric = header.text("PhotometricInterpretation")
    if int(header.number("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        what = f"the image is in colour ({photometric or 'unknown'})"
        raise header.fault("dicom-not-grey", what, "PhotometricInterpretation", "give a grey series")
    if header.items("ModalityLUTSequence"):
        what = "stored values are converted to real ones by a table, which is not supported"
        raise header.fault("dicom-lookup-table", what, "ModalityLUTSequence")


def oriented(attributes: Attributes) -> np.ndarray:
    """ImageOrientationPatient, checked to be two perpendicular unit vectors."""
    orientation = np.array(attributes.need("ImageOrientationPatient", 6))
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1, atol=1e-3) or abs(row @ column) > 1e-3:
        what = "the two directions are not perpendicular unit vectors"
        raise attributes.fault("dicom-bad-orientation", what, "ImageOrientationPatient")
    return np.concatenate([row / lengths[0], column / lengths[1]])


def positioned(attributes: Attributes) -> np.ndarray:
    """ImagePositionPatient, which must be present and plausible for a patient."""
    position = np.array(attributes.need("ImagePositionPatient", 3))
    if np.abs(position).max() >= BELIEVABLE_POSITION:
        what = f"the position ({', '.join(f'{v:g}' for v in position)}) is implausibly far away"
        raise attributes.fault("dicom-bad-position", what, "ImagePositionPatient", "export the series again")
    return position


def spaced(attributes: Attributes) -> tuple[float, float]:
    """PixelSpacing, which must be present, positive and plausible."""
    rows, columns = attributes.need("PixelSpacing", 2)
    if min(rows, columns) <= 0:
        what = f"the value ({rows:g}, {columns:g}) is not positive"
        raise attributes.fault("dicom-bad-spacing", what, "PixelSpacing", "export the series again")
    if max(rows, columns) > MAX_SPACING_MM:
        what = f"the value ({rows:g}, {columns:g}) is implausibly large for millimetres"
        raise attributes.fault("dicom-bad-spacing", what, "PixelSpacing", "export the series again")
    return rows, columns


def thick(attributes: Attributes) -> float | None:
    """SpacingBetweenSlices, else SliceThickness, if positive."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = attributes.number(keyword)
        if value is not None and value > 0:
            return value
    return None


def rescaled(attributes: Attributes | None) -> Rescale:
    """The rescale that a data set or functional group states, if any.

    Raises
    ------
    StudyError
        If it would make all values equal, or is incomplete.
    """
    if attributes is None:
        return Rescale()
    slope, intercept = attributes.number("RescaleSlope"), attributes.number("RescaleIntercept")
    if slope == 0:
        what = "the value is zero, which would make all voxels equal"
        raise attributes.fault("dicom-bad-rescale", what, "RescaleSlope", "export the series again")
    if slope is None and intercept is not None:
        raise attributes.fault("dicom-bad-rescale", "there is an intercept without a slope", "RescaleSlope")
    if slope is None:
        return Rescale()
    return Rescale(slope, intercept or 0.0, attributes.text("RescaleType"), stated=True)


def single_plane(header: Header) -> Plane:
    """The plane of a file that holds one image.

    Raises
    ------
    StudyError
        If its place, size or values are in doubt.
    """
    frames, rows, columns = frame_shape(header)
    if frames > 1:
        what = f"{frames} frames without a place in the patient"
        raise header.fault("dicom-frames-without-place", what, "PerFrameFunctionalGroupsSequence")
    check_grey(header)
    return Plane(
        header=header,
        frame=0,
        shape=(rows, columns),
        position=positioned(header),
        orientation=oriented(header),
        spacing=spaced(header),
        thickness=thick(header),
        rescale=rescaled(header),
        kind=header.image_type,
        marks=single_marks(header),
    )


def single_marks(header: Header) -> dict[str, Any]:
    """What may distinguish this file's image from another at the same place."""
    return {
        "time": header.number("TemporalPositionIdentifier"),
        "echo": header.numbers("EchoNumbers") or None,
        "echo time": header.number("EchoTime"),
        "b-value": header.number("DiffusionBValue"),
        "gradient": header.numbers("DiffusionGradientOrientation") or None,
        "trigger time": header.number("TriggerTime"),
        "reference time": header.number("FrameReferenceTime"),
        "acquisition": header.number("AcquisitionNumber"),
        "kVp": _number_or_none(header, "KVP"),
        "kernel": header.text("ConvolutionKernel") or None,
        "image": _number_or_none(header, "InstanceNumber"),
    }


def _number_or_none(header: Header, keyword: str) -> float | None:
    """The number; ``None`` if it is damaged, which only means that it distinguishes nothing."""
    try:
        return header.number(keyword)
    except StudyError:
        return None


def check_one_rescale(planes: list[Plane]) -> None:
    """Refuse a stack in which some planes have a rescale and others have none.

    Raises
    ------
    StudyError
        Naming the first plane without.
    """
    without = [p for p in planes if not p.rescale.stated]
    if without and len(without) < len(planes):
        what = "this image has no rescale while others of the series have"
        raise without[0].header.fault("dicom-bad-rescale", what, "RescaleSlope")
