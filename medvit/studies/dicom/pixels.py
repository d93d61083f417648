"""Pixels of planes: checked against the header, decoded by permissive decoders only, rescaled to float32."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    UID_dictionary,
)

from medvit.errors import StudyError
from medvit.studies.dicom.codestream import JPEG, JPEG2000_FAMILY, JPEG_LS, frame_size
from medvit.studies.dicom.headers import IMAGE_PIXEL, Header, NotDicomError, open_dataset, quiet
from medvit.studies.dicom.planes import Plane, frame_shape

# Named, so that no other installed decoder (one of which is under the GPL) is ever used.
_PLUGINS = {
    **dict.fromkeys(JPEG2000_FAMILY, "pylibjpeg"),
    **dict.fromkeys(JPEG_LS, "pyjpegls"),
    **dict.fromkeys(JPEG, "gdcm"),
    RLELossless: "pydicom",
}
_LOSSLESS = (JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL, JPEGLSLossless, RLELossless, *JPEG[2:])
_JPEG_COMPLAINTS = ("Corrupt JPEG", "Premature end of JPEG")
_PIXEL_DATA = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_TAGS: list[BaseTag | int] = [Tag(keyword) for keyword in (*IMAGE_PIXEL, *_PIXEL_DATA)]


def decode(planes: Sequence[Plane]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Real values of the planes of a stack, in their order.

    Parameters
    ----------
    planes
        All of one shape.

    Returns
    -------
    np.ndarray
        (columns, rows, planes) float32; each plane is contiguous in memory.
    tuple of str
        Remarks on the stored values, in sentences.

    Raises
    ------
    StudyError
        If the pixels of a plane are missing, cut off, or contradict the header.
    """
    rows, columns = planes[0].shape
    volume = np.empty((len(planes), rows, columns), np.float32)
    places = sorted(range(len(planes)), key=lambda i: (str(planes[i].header.path), planes[i].frame))
    oddities: Counter[str] = Counter()
    with quiet():  # the faults of which a decoder warns are checked here, before and after it
        for _, group in groupby(places, key=lambda i: planes[i].header.path):
            indices = list(group)
            header = planes[indices[0]].header
            wanted = sorted({planes[i].frame for i in indices})
            for number, frame in zip(wanted, _frames(header, wanted, oddities), strict=True):
                for i in indices:
                    if planes[i].frame == number:
                        _rescale(frame, planes[i], volume[i])
    notes = tuple(f"{oddity} (frames: {count})." for oddity, count in sorted(oddities.items()))
    return volume.transpose(2, 1, 0), notes


def _rescale(frame: np.ndarray, plane: Plane, out: np.ndarray) -> None:
    (top, left), (rows, columns) = plane.corner, plane.shape
    stored = frame[top : top + rows, left : left + columns]
    if abs(plane.rescale.slope) * 2.0**32 + abs(plane.rescale.intercept) > np.finfo(np.float32).max:
        raise plane.header.fault("dicom-bad-rescale", "the real values are infinite", "RescaleSlope")
    if stored.dtype.itemsize <= 2:
        # float32 holds 16 bits exactly, so only the product is rounded.
        out[...] = stored
        if plane.rescale.slope != 1:
            out *= np.float32(plane.rescale.slope)
        if plane.rescale.intercept:
            out += np.float32(plane.rescale.intercept)
    else:
        out[...] = stored * plane.rescale.slope + plane.rescale.intercept


def _frames(header: Header, wanted: Sequence[int], oddities: Counter[str]) -> Iterator[np.ndarray]:
    """Stored values (rows, columns) of the wanted frames of a file; peculiarities are counted."""
    frames, rows, columns = frame_shape(header)
    stored = _bits_stored(header)
    decoder = _decoder(header)
    dataset = _with_pixels(header)
    sign_differs = False
    if decoder.is_encapsulated:
        sign_differs = _check_codestreams(dataset, header, frames, rows, columns)
    else:
        _check_length(dataset, header, frames * rows * columns)
    for frame in _decoded(decoder, dataset, header, wanted):
        if frame.shape != (rows, columns):
            what = f"a frame decodes to {frame.shape} where the header says ({rows}, {columns})"
            raise header.fault("dicom-frame-size", what, "Rows")
        if sign_differs:
            _check_sign(frame, header, oddities)
        yield _within_bits(frame, header, stored, oddities)


def _with_pixels(header: Header) -> Dataset:
    try:
        dataset, _ = open_dataset(header.path, _TAGS)
    except NotDicomError as error:
        raise StudyError("dicom-damaged-file", str(error), path=header.path) from None
    try:
        pixels = dataset.get("PixelData")
    except Exception:  # on damaged elements pydicom raises errors of many kinds
        pixels = None
    if not isinstance(pixels, bytes) or not pixels:
        what = "the file holds no pixels that can be read"
        raise header.fault("dicom-missing-pixels", what, "PixelData", "export the series again")
    return dataset


def _check_length(dataset: Dataset, header: Header, pixels: int) -> None:
    allocated = int(header.need("BitsAllocated")[0])
    expected, found = pixels * allocated // 8, len(dataset.PixelData)
    if found < expected:
        what = f"the header declares {expected} bytes of pixels, the file holds {found}"
        raise header.fault("dicom-truncated-pixels", what, "PixelData", "fetch the file again")
    # A few bytes may be padding; a row of pixels or more means that the declared size or depth is wrong.
    if found - expected >= int(header.need("Columns")[0]) * max(1, allocated // 8) and found - expected > 1:
        what = f"the header declares {expected} bytes of pixels, the file holds {found}"
        raise header.fault("dicom-bad-bits", what, "BitsAllocated", "export the series again")


def _check_codestreams(dataset: Dataset, header: Header, frames: int, rows: int, columns: int) -> bool:
    """Whether a frame's sign differs from the header's, once everything else is known to agree."""
    allocated, signed = (int(header.need(k)[0]) for k in ("BitsAllocated", "PixelRepresentation"))
    sign_differs = False
    try:
        found = 0
        for frame in _encoded_frames(dataset, frames):
            found += 1
            size = frame_size(frame, header.syntax)
            if size is not None and (size.rows, size.columns, size.samples) != (rows, columns, 1):
                what = (
                    f"the compressed image is {size.rows} x {size.columns} x {size.samples} "
                    f"where the header says {rows} x {columns} x 1"
                )
                raise header.fault("dicom-frame-size", what, "PixelData")
            if size is not None and size.bits > allocated:
                what = f"the compressed image has {size.bits} bits a pixel, the header allocates {allocated}"
                raise header.fault("dicom-bad-bits", what, "BitsAllocated", "export the series again")
            # Only the codestream of JPEG 2000 says whether its samples are signed.
            if size is not None and header.syntax in JPEG2000_FAMILY:
                sign_differs |= size.signed != bool(signed)
    except StudyError:
        raise
    except Exception as error:
        what = f"the compressed pixels are cut off or damaged: {error}"
        raise header.fault("dicom-truncated-pixels", what, "PixelData", "fetch the file again") from error
    if found != frames:
        what = f"the header declares {frames} frames, the file holds {found}"
        raise header.fault("dicom-truncated-pixels", what, "NumberOfFrames", "fetch the file again")
    return sign_differs


def _check_sign(frame: np.ndarray, header: Header, oddities: Counter[str]) -> None:
    """Refuse a signed codestream whose negative values would become large positive ones by the header.

    The opposite is a known habit of encoders that received signed samples as plain bits.
    """
    if frame.dtype.kind == "i":
        said = "Values that the compressed image calls unsigned were taken as signed, as the header says"
        oddities[said] += 1
    elif (frame >> (int(header.need("BitsStored")[0]) - 1)).any():
        what = "the compressed image has negative values where the header says that there are none"
        raise header.fault("dicom-sign", what, "PixelRepresentation", "have the series sent uncompressed")


def _encoded_frames(dataset: Dataset, frames: int) -> Iterator[bytes]:
    offsets, lengths = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    extended = (offsets, lengths) if offsets and lengths else None
    return generate_frames(dataset.PixelData, number_of_frames=frames, extended_offsets=extended)


def _decoder(header: Header) -> Decoder:
    try:
        return get_decoder(header.syntax)
    except NotImplementedError:
        what = f"there is no decoder for the transfer syntax {UID_dictionary.get(header.syntax, ('',))[0]}"
        raise StudyError(
            "dicom-unknown-syntax", what.strip(), path=header.path, tag="TransferSyntaxUID (0002,0010)",
            do="have the series sent uncompressed",
        ) from None  # fmt: skip


def _decoded(
    decoder: Decoder, dataset: Dataset, header: Header, wanted: Sequence[int]
) -> Iterator[np.ndarray]:
    plugin = _PLUGINS.get(header.syntax, "")
    how = {"raw": True, "decoding_plugin": plugin, "correct_unused_bits": False}
    frames = decoder.iter_array(dataset, indices=wanted, **how)  # type: ignore[arg-type]
    for _ in wanted:
        try:
            listening: AbstractContextManager[list[str]]
            listening = _overheard() if header.syntax in JPEG else nullcontext([])
            with listening as heard:
                frame, _ = next(frames)
        except Exception as error:
            what = f"the pixels cannot be decoded: {type(error).__name__}"
            raise header.fault(
                "dicom-undecodable-pixels", what, "PixelData", "fetch the file again"
            ) from error
        if any(complaint in text for text in heard for complaint in _JPEG_COMPLAINTS):
            what = "the compressed pixels are damaged"
            raise header.fault("dicom-damaged-pixels", what, "PixelData", "fetch the file again")
        yield frame


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """The text that is written to the standard error of the process during the block.

    The JPEG library in gdcm completes damaged images and reports it nowhere else.
    """
    heard: list[str] = []
    with tempfile.TemporaryFile() as file:
        usual = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield heard
        finally:
            os.dup2(usual, 2)
            os.close(usual)
            file.seek(0)
            heard.append(file.read().decode(errors="replace"))


def _bits_stored(header: Header) -> int:
    allocated, stored = (int(header.need(k)[0]) for k in ("BitsAllocated", "BitsStored"))
    high = header.number("HighBit")
    if not 1 <= stored <= allocated or (high is not None and high != stored - 1):
        what = f"{stored} bits stored of {allocated}, the highest at {high}, is not supported"
        raise header.fault("dicom-bad-bits", what, "BitsStored")
    return stored


def _within_bits(frame: np.ndarray, header: Header, stored: int, oddities: Counter[str]) -> np.ndarray:
    """Stored values without the bits above BitsStored, which may hold an overlay."""
    unused = frame.dtype.itemsize * 8 - stored
    whole = frame
    if unused > 0 and header.syntax.is_encapsulated:
        _check_range(frame, header, stored)
    elif unused > 0 and frame.dtype.kind == "u":
        frame = frame & frame.dtype.type(2**stored - 1)
    elif unused > 0:
        frame = (frame << unused) >> unused
    if frame is not whole and not np.array_equal(frame, whole):
        oddities[f"Bits above the {stored} of BitsStored were set and left out"] += 1
    _check_maximum(frame, header)
    return frame


def _check_range(frame: np.ndarray, header: Header, stored: int) -> None:
    signed = frame.dtype.kind == "i"
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1)) if signed else (0, 2**stored)
    if frame.min() < low or frame.max() >= high:
        what = f"the compressed image holds values beyond {stored} bits"
        raise header.fault("dicom-bad-bits", what, "BitsStored")


def _check_maximum(frame: np.ndarray, header: Header) -> None:
    """Refuse values above the header's maximum, since damaged data may decode without an error.

    The maximum is checked only where it must hold: in an original image, compressed without loss and without
    padding. The minimum is unsuitable: blanking out a face or a burned-in name goes below it.
    """
    if (
        header.syntax not in _LOSSLESS
        or "ORIGINAL" not in header.image_type
        or header.has("PixelPaddingValue")
    ):
        return
    most = header.number("LargestImagePixelValue")
    if most is not None and frame.max() > most:
        what = f"the image holds values beyond the {most:g} that its header names, so its pixels are damaged"
        raise header.fault("dicom-damaged-pixels", what, "LargestImagePixelValue", "fetch the file again")
