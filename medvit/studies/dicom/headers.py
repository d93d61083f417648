"""The attributes of one file, read without pixels; every fault is a StudyError with its tag."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_file_meta_info, read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)

from medvit.errors import StudyError
from medvit.studies.dicom.sniff import starts_as_dicom

# A deflated data set may unpack to this much (a 1024-frame 512 x 512 object fits); one that is large may
# unpack to this many times what it was (images shrink to a third or so).
MAX_INFLATED_BYTES, LARGE_BYTES, MAX_RATIO = 512 * 2**20, 64 * 2**20, 100

UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
IMAGE_PIXEL = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "LargestImagePixelValue",
    "PixelPaddingValue",
)  # fmt: skip
GEOMETRY = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "FrameOfReferenceUID", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
IDENTITY = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "ImageType",
    "Modality", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge",
    "AccessionNumber", "SpecificCharacterSet",
)  # fmt: skip
VALUES = (
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "Units", "SUVType",
    "DecayCorrection", "CorrectedImage", "PatientWeight", "RadiopharmaceuticalInformationSequence",
    "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime",
)  # fmt: skip
MARKS = (
    "TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "DiffusionBValue",
    "DiffusionGradientOrientation", "TriggerTime", "FrameReferenceTime", "AcquisitionNumber",
    "InstanceNumber",
)  # fmt: skip
DESCRIPTION = (
    "SeriesDescription", "StudyDescription", "ProtocolName", "StudyDate", "Manufacturer",
    "ManufacturerModelName", "BodyPartExamined", "ContrastBolusAgent", "ConvolutionKernel", "KVP",
    "RepetitionTime", "InversionTime", "FlipAngle", "MagneticFieldStrength", "SequenceName",
    "ScanningSequence", "MRAcquisitionType", "AcquisitionMatrix", "BurnedInAnnotation",
    "LossyImageCompression", "DirectoryRecordSequence",
)  # fmt: skip
# Siemens: the CSA image header with its private creator.
CSA_CREATOR, CSA_IMAGE_HEADER = 0x00290010, 0x00291010

_KEYWORDS = (*IMAGE_PIXEL, *GEOMETRY, *IDENTITY, *VALUES, *MARKS, *DESCRIPTION)
_TAGS: list[BaseTag | int] = [Tag(tag) for tag in (*_KEYWORDS, CSA_CREATOR, CSA_IMAGE_HEADER)]


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings that pydicom gives during the block, for the caller to judge.

    They are neither shown nor logged, because they quote the header and with it the patient.
    """
    logger = logging.getLogger("pydicom")
    usual = logger.propagate
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger.propagate = False
        try:
            yield caught
        finally:
            logger.propagate = usual


class NotDicomError(ValueError):
    """The file is not a DICOM file; the message says what was seen instead."""


def named(keyword: str) -> str:
    """``"Rows"`` as ``"Rows (0028,0010)"``."""
    tag = keyword_dict[keyword]
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


@dataclass(frozen=True)
class Attributes:
    """The attributes of a data set or sequence item, with the file to name when one is at fault."""

    dataset: Dataset
    path: Path

    def fault(self, code: str, what: str, keyword: str, do: str = "") -> StudyError:
        """The error to raise for a fault of one attribute."""
        return StudyError(code, what, path=self.path, tag=named(keyword), do=do)

    def has(self, keyword: str) -> bool:
        """Whether the attribute is present and not empty."""
        element = self.dataset.get_item(keyword_dict[keyword])
        return element is not None and element.value not in (None, b"", "")

    def text(self, keyword: str) -> str:
        """The attribute as text, values joined by a backslash; ``""`` when absent, empty or undecodable."""
        try:
            return "\\".join(str(v) for v in self._values(keyword)).strip(" \0")
        except Exception:  # an unusual character set garbles a name, never an image
            return ""

    def numbers(self, keyword: str, count: int | None = None) -> tuple[float, ...]:
        """The attribute as finite numbers; ``()`` when absent or empty.

        Raises
        ------
        StudyError
            If the value is not a finite number, or there are not `count` of them.
        """
        if not self.has(keyword):
            return ()
        try:
            values = tuple(float(v) for v in self._raw_numbers(keyword))
        except Exception:  # pydicom raises many kinds of errors on damaged elements
            raise self.fault("dicom-bad-value", "the value is not a number", keyword) from None
        if not np.isfinite(values).all() or (count is not None and len(values) != count):
            shown = ", ".join(f"{v:g}" for v in values)
            raise self.fault("dicom-bad-value", f"the value ({shown}) is not usable", keyword)
        return values

    def _raw_numbers(self, keyword: str) -> Sequence[Any]:
        # Decimal strings are parsed here, since pydicom warns of or rejects texts that are merely too long.
        element = self.dataset.get_item(keyword_dict[keyword])
        if isinstance(element, RawDataElement) and dictionary_VR(element.tag) in ("DS", "IS"):
            return (element.value or b"").decode("ascii").strip(" \0").split("\\")
        return self._values(keyword)

    def _values(self, keyword: str) -> Sequence[Any]:
        with quiet():
            value = self.dataset.get(keyword)
        if value is None:
            return ()
        return value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)

    def number(self, keyword: str) -> float | None:
        """The attribute's one number, or ``None`` when absent or empty."""
        values = self.numbers(keyword, 1)
        return values[0] if values else None

    def need(self, keyword: str, count: int = 1) -> tuple[float, ...]:
        """As `numbers`, for an attribute without which the image cannot be used."""
        values = self.numbers(keyword, count)
        if not values:
            what = "the attribute is missing or empty"
            raise self.fault("dicom-missing-attribute", what, keyword, "export the series again")
        return values

    def items(self, keyword: str) -> list[Attributes]:
        """The items of a sequence; none if it is absent."""
        try:
            return [Attributes(item, self.path) for item in self._values(keyword)]
        except Exception:
            raise self.fault("dicom-damaged-file", "the sequence cannot be read", keyword) from None


@dataclass(frozen=True)
class Header(Attributes):
    """The header of one file, without pixels."""

    syntax: UID

    @cached_property
    def image_type(self) -> tuple[str, ...]:
        """ImageType, in capitals."""
        return tuple(v.strip().upper() for v in self.text("ImageType").split("\\"))

    @property
    def is_image(self) -> bool:
        """Whether the SOP class is an image class, or may be one: empty, or a manufacturer's own."""
        if not self.text("SOPClassUID"):
            return self.has("Rows") or self.has("Modality")
        return "Image Storage" in self.sop_class if self.sop_class else self.has("Rows")

    @property
    def sop_class(self) -> str:
        """Name of the SOP class in the standard; ``""`` if it has none."""
        return UID_dictionary.get(self.text("SOPClassUID"), ("",))[0]


def read_header(path: Path) -> Header:
    """The header of one file.

    Raises
    ------
    NotDicomError
        If the file is not DICOM.
    StudyError
        If it is DICOM, but damaged, cut off, or unpacks to more than is reasonable.
    """
    at_pixels = AtPixels()
    dataset, syntax = open_dataset(path, _TAGS, at_pixels)
    # A header that ends between two attributes reads without complaint.
    telling = ("SOPClassUID", "Modality", "SeriesInstanceUID", "DirectoryRecordSequence")
    if not any(keyword in dataset for keyword in telling):
        raise _damaged(path)
    header = Header(dataset, path, syntax)
    if header.is_image and not at_pixels.reached:
        raise _damaged(path, "the file is cut off before its pixels")
    return header


class AtPixels:
    """Stops pydicom before the pixels, and notes whether it got that far."""

    reached = False

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """Whether to stop before this element."""
        self.reached |= tag >= 0x7FE00000
        return self.reached


def open_dataset(
    path: Path, tags: list[BaseTag | int] | None = None, stop: AtPixels | None = None
) -> tuple[Dataset, UID]:
    """The named attributes of a file, or all of them, and its transfer syntax.

    Raises
    ------
    NotDicomError, StudyError
        Under the same conditions as `read_header`.
    """
    _check_is_dicom(path)
    with quiet() as caught:
        try:
            dataset, syntax = _open(path, tags, stop)
        except StudyError:
            raise
        except RecursionError:
            what = "its sequences are nested more deeply than in any image"
            raise StudyError("dicom-nested-too-deep", what, path=path, do="take the file away") from None
        except Exception as error:
            raise _damaged(path) from error
    # For a file that ends too early, pydicom returns an empty or shortened data set and warns.
    cut = any("end of file" in str(w.message).lower() for w in caught)
    if cut or len(dataset) == 0:
        raise _damaged(path)
    return dataset, syntax


def _damaged(path: Path, what: str = "the file is cut off or damaged") -> StudyError:
    return StudyError("dicom-damaged-file", what, path=path, do="replace or remove it")


def _check_is_dicom(path: Path) -> None:
    try:
        is_dicom = starts_as_dicom(path)
        is_empty = path.stat().st_size == 0
    except OSError as error:
        raise StudyError(
            "dicom-unreadable-file", f"it cannot be opened: {error.strerror}", path=path
        ) from None
    if is_empty:
        raise NotDicomError("an empty file")
    if not is_dicom:
        raise NotDicomError("not a DICOM file")


def _open(path: Path, tags: list[BaseTag | int] | None, stop: AtPixels | None) -> tuple[Dataset, UID]:
    meta = read_file_meta_info(path) if _has_preamble(path) else Dataset()
    syntax = meta.get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        data = _inflate(path, meta)
        return read_dataset(BytesIO(data), False, True, stop_when=stop, specific_tags=tags), syntax
    with path.open("rb") as file:
        dataset = read_partial(file, stop, force=True, specific_tags=tags)
    return dataset, UID(dataset.file_meta.get("TransferSyntaxUID") or _guessed_syntax(dataset))


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _guessed_syntax(dataset: Any) -> str:
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _inflate(path: Path, meta: Dataset) -> bytes:
    # The group length does not count the preamble, "DICM" and its own element, which come first.
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    with path.open("rb") as file:
        file.seek(start)
        packed = file.read()
    unpacker, rest, size = zlib.decompressobj(-zlib.MAX_WBITS), packed, 0
    while rest and not unpacker.eof:
        size += len(unpacker.decompress(rest, 2**20))
        rest = unpacker.unconsumed_tail
        consumed = len(packed) - len(rest)
        if size > MAX_INFLATED_BYTES or (size > LARGE_BYTES and size > MAX_RATIO * consumed):
            raise StudyError(
                "dicom-inflates-too-far", "the deflated data set unpacks to more than an image would",
                path=path, tag="TransferSyntaxUID (0002,0010)", do="take the file away",
            )  # fmt: skip
    return zlib.decompress(packed, -zlib.MAX_WBITS)


def series_uid_of_damaged(path: Path) -> str:
    """The SeriesInstanceUID of a file that ends too early; ``""`` if it ends before it."""
    last, passed = keyword_dict["SeriesInstanceUID"], []

    def is_behind(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag > last:
            passed.append(tag)
        return tag > last

    try:
        with quiet(), path.open("rb") as file:
            if DeflatedExplicitVRLittleEndian.encode() in file.read(1024):
                return ""  # never inflated beyond `_inflate`'s limit
            file.seek(0)
            dataset = read_partial(file, is_behind, force=True, specific_tags=[last])
            # A UID at which the file ends may lack its own end.
            return str(dataset.get("SeriesInstanceUID") or "") if passed else ""
    except (Exception, RecursionError):
        return ""
