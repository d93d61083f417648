"""A restored image as a derived series of the same kind of DICOM image as its source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from medvit.errors import MedvitError, StudyError
from medvit.studies.dicom_out.common import Algorithm, reference_to, series_number
from medvit.studies.dicom_out.source import Frame, SourceSeries
from medvit.studies.study import Grid

# Attributes that apply only to the source's pixels, and would be wrong or unsafe with new ones.
_NOT_KEPT = {
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "IconImageSequence",
    "RealWorldValueMappingSequence",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "OriginalAttributesSequence",
    "DigitalSignaturesSequence",
}

_INT16 = np.iinfo(np.int16).max
# Fewer levels than an 8-bit display shows would be visible as steps.
_ENOUGH_LEVELS = 256


def derived_series(
    image: np.ndarray,
    grid: Grid,
    source: SourceSeries,
    algorithm: Algorithm,
    *,
    description: str,
    units: str = "",
) -> Iterator[Dataset]:
    """A restored image as a new series: one object for each slice, or one multi-frame object like the source.

    Stored values are signed 16 bit with intercept 0. The slope is 1 where that keeps at least 256 levels
    (always for CT in HU that fits), and otherwise as fine as 16 bits allow.

    Parameters
    ----------
    image
        (X, Y, Z) in the units of the source after its rescale (CT: HU), in the index order of `grid`.
    grid
        Grid of the image; each slice must lie on one frame of `source`.
    source
        The series that was restored.
    algorithm
        What restored the image.
    description
        The processing, for SeriesDescription and DerivationDescription ("denoised").
    units
        Units of `image`, as the reader states them in ``Series.facts["units"]``. Required for PET, since the
        reader converts activity to SUV where it can; ``"SUVbw"`` is written as such.

    Yields
    ------
    Dataset
        In the order of the slices.

    Raises
    ------
    MedvitError
        If the image does not have the shape of `grid`, has values that are not finite, or is PET without
        units; if the source is in colour.
    StudyError
        If a slice does not lie on a frame of the source.
    """
    _check(image, grid, source, units)
    frames = source.frames_of(grid)
    slope = _slope(image, source.first.get("Modality") == "CT")
    # One plane at a time: a copy of a whole CT as floats is larger than the result itself.
    planes = (np.rint(image[:, :, k].T / float(slope)).astype("<i2") for k in range(grid.shape[2]))
    series_uid = hd.UID()
    # PS3.3 C.8.9.1: standardised uptake by body weight, in g/ml.
    stated = {"Units": "GML", "SUVType": "BW"} if units == "SUVbw" else {}
    if frames[0].number is None:
        for k, (frame, plane) in enumerate(zip(frames, planes, strict=True)):
            result = _derive(frame.image, source, algorithm, description, series_uid)
            _set(result, InstanceNumber=k + 1, **stated)
            _rescale(result, slope)
            yield _with_pixels(result, plane)
    else:
        result = _derive(frames[0].image, source, algorithm, description, series_uid)
        _set(result, **stated)
        _keep_frames(result, frames, slope)
        yield _with_pixels(result, np.stack(list(planes)))


def estimated_series(
    image: np.ndarray,
    grid: Grid,
    source: SourceSeries,
    algorithm: Algorithm,
    *,
    description: str,
    units: str = "",
) -> Iterator[Dataset]:
    """An image on a finer grid than its source as a new series; every object says that it is an estimate.

    Each slice has the header of the nearest source image, with its own place, pixels and thickness.

    Parameters
    ----------
    image
        (X, Y, Z) in the units of the source, in the index order of `grid`.
    grid
        Grid of the image; its axes are those of the source.
    source
        The series that was refined, of single-frame images.
    algorithm, description, units
        Same as in `derived_series`.

    Yields
    ------
    Dataset
        In the order of the slices.

    Raises
    ------
    MedvitError
        Under the same conditions as `derived_series`.
    StudyError
        If the source consists of multi-frame images, or has no place in a patient.
    """
    _check(image, grid, source, units)
    placed = [(f, f.affine) for f in source.frames if f.affine is not None and f.number is None]
    if len(placed) != len(source.frames):
        raise StudyError(
            "dicom-out-multi-frame",
            "an estimate on a finer grid can be stored only with single-frame images",
            path=source.path,
            do="take image.nii.gz",
        )
    slope = _slope(image, source.first.get("Modality") == "CT")
    middles = np.stack([affine @ [(f.shape[0] - 1) / 2, (f.shape[1] - 1) / 2, 0, 1] for f, affine in placed])
    series_uid = hd.UID()
    for k in range(grid.shape[2]):
        middle = grid.affine @ [(grid.shape[0] - 1) / 2, (grid.shape[1] - 1) / 2, k, 1]
        nearest = placed[int(np.linalg.norm(middles - middle, axis=1).argmin())][0].image
        result = _derive(nearest, source, algorithm, f"{description} (estimated)", series_uid)
        _place(result, grid, k)
        _rescale(result, slope)
        yield _with_pixels(result, np.rint(image[:, :, k].T / float(slope)).astype("<i2"))


def _place(result: Dataset, grid: Grid, k: int) -> None:
    """Position, orientation and size of slice `k`; LPS millimetres."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    along_row, along_column, step = affine[:3, :3].T / np.array(grid.spacing)[:, None]
    position = (affine @ [0, 0, k, 1])[:3]
    columns, rows, between = grid.spacing
    result.ImagePositionPatient = [format_number_as_ds(float(v)) for v in position]
    result.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in (*along_row, *along_column)]
    result.PixelSpacing = [format_number_as_ds(rows), format_number_as_ds(columns)]
    result.SliceThickness = result.SpacingBetweenSlices = format_number_as_ds(between)
    result.SliceLocation = format_number_as_ds(float(position @ step))
    result.Columns, result.Rows = grid.shape[:2]
    result.InstanceNumber = k + 1


def _check(image: np.ndarray, grid: Grid, source: SourceSeries, units: str) -> None:
    if image.shape != grid.shape:
        raise MedvitError(f"the image is {image.shape} and its grid {grid.shape}; they must be equal")
    if not np.isfinite(image).all():
        raise MedvitError("the restored image has values that are not finite; restore it again")
    if source.first.get("Modality") == "PT" and not units:
        raise MedvitError(f"{source.path}: PET needs the units of its values; pass those from the reader")
    if not str(source.first.get("PhotometricInterpretation", "")).startswith("MONOCHROME"):
        raise MedvitError(f"{source.path}: the source is in colour, and a derived image is not; write NIfTI")


def _set(result: Dataset, **values: str | int) -> None:
    for keyword, value in values.items():
        setattr(result, keyword, value)


def _slope(image: np.ndarray, is_ct: bool) -> str:
    """The slope as DICOM writes it, so that values are stored by the number that readers will use."""
    largest = float(max(image.max(), -image.min()))
    if largest <= _INT16 and (is_ct or largest >= _ENOUGH_LEVELS):
        return "1"
    # The rounding of the decimal string must not push the largest value over the edge.
    return format_number_as_ds(largest / _INT16 * (1 + 1e-6)) if largest else "1"


def _derive(
    image: Dataset, source: SourceSeries, algorithm: Algorithm, description: str, series_uid: str
) -> Dataset:
    result = deepcopy(image)
    result.remove_private_tags()
    for element in [e for e in result if e.keyword in _NOT_KEPT or 0x6000 <= e.tag.group <= 0x60FF]:
        del result[element.tag]
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.SeriesInstanceUID, result.SOPInstanceUID = series_uid, hd.UID()
    result.SeriesNumber = series_number(source, 4)
    result.SeriesDescription = f"{image.get('SeriesDescription', '')} {description}".strip()[:64]
    result.ImageType = _derived_type(image.get("ImageType"))
    result.DerivationDescription = f"{description} by {algorithm.name} {algorithm.version}, medvit"
    result.SourceImageSequence = [reference_to(image)]
    return result


def _derived_type(source_type: Sequence[str] | str | None) -> list[str]:
    """Value 1 DERIVED (new pixel values); value 2 and the rest stay (PS3.3 C.7.6.1.1.2)."""
    kept = [] if isinstance(source_type, str) else list(source_type or [])[1:]
    return ["DERIVED", *(kept or ["PRIMARY"])]


def _rescale(holder: Dataset, slope: str) -> None:
    """State slope and intercept, except for MR that has neither, which needs none at slope 1."""
    if slope == "1" and "RescaleSlope" not in holder:
        return
    if "RescaleType" not in holder:
        holder.RescaleType = "US"
    holder.RescaleSlope, holder.RescaleIntercept = slope, "0"


def _keep_frames(result: Dataset, frames: list[Frame], slope: str) -> None:
    """Keep the functional groups of `frames`, in their order, with the new rescale in each."""
    shared = result.SharedFunctionalGroupsSequence[0]
    groups = [result.PerFrameFunctionalGroupsSequence[f.number - 1] for f in frames if f.number]
    if slope != "1" and not any("PixelValueTransformationSequence" in g for g in (shared, *groups)):
        rescale = Dataset()
        rescale.RescaleType = "US"
        shared.PixelValueTransformationSequence = [rescale]
    for group in (shared, *groups):
        for sequence in ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence"):
            if sequence in group:
                group[sequence][0].FrameType = _derived_type(group[sequence][0].get("FrameType"))
        group.pop("RealWorldValueMappingSequence", None)
        for item in group.get("PixelValueTransformationSequence", []):
            item.RescaleSlope, item.RescaleIntercept = slope, "0"
    result.PerFrameFunctionalGroupsSequence = groups
    result.NumberOfFrames = len(groups)


def _with_pixels(result: Dataset, pixels: np.ndarray) -> Dataset:
    result.BitsAllocated, result.BitsStored, result.HighBit, result.PixelRepresentation = 16, 16, 15, 1
    result.PixelData = pixels.tobytes()
    result["PixelData"].VR = "OW"
    return result
