"""Removal of what can be hidden in pixel data: bytes after the pixels, comments, and unused bits."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from medvit.errors import StudyError
from medvit.studies.dicom.codestream import JPEG, JPEG2000_FAMILY, JPEG_LS

_COM = 0x64  # JPEG 2000: a comment
_SOT, _SOD, _EOC = 0x90, 0x93, 0xD9
_JPEG_TEXT = {0xFE, *range(0xE0, 0xF0)}  # JPEG: a comment, and segments of applications
_JPEG_BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a length


def without_hidden_text(dataset: Dataset) -> None:
    """Remove everything but the pixels from a data set's pixel data, in place; the pixels stay unchanged.

    RLE, in which the end of the data cannot be told without decoding, is decoded.

    Raises
    ------
    StudyError
        If the pixel data is shorter than the header states, or cannot be separated from hidden data.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)  # written anew below, as the basic one
    try:
        if syntax == RLELossless:
            dataset.decompress(generate_instance_uid=False)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        elif syntax.is_encapsulated:
            _clean_frames(dataset, syntax)
            return
        _cut_to_size(dataset)
    except StudyError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, struct.error):
        fault = _fault("the pixels are damaged")
    else:
        return
    raise fault


def _fault(what: str) -> StudyError:
    return StudyError("deidentify-pixels", what, tag="PixelData", do="fetch the file again, or leave it out")


def _cut_to_size(dataset: Dataset) -> None:
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    values, allocated = frames * dataset.Rows * dataset.Columns * samples, dataset.BitsAllocated
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        values = values * 2 // 3
    size = (values * allocated + 7) // 8
    pixels = dataset.PixelData
    if len(pixels) < size:
        raise _fault("the pixels are cut off")
    if len(pixels) - size > max(1, dataset.Columns * allocated * samples // 8):
        raise _fault("there are more bytes of pixels than the header declares")
    pixels = _without_unused_bits(dataset, pixels[:size])
    dataset["PixelData"].value = pixels + b"\0" * (len(pixels) % 2)


def _without_unused_bits(dataset: Dataset, pixels: bytes) -> bytes:
    """Clear the bits above BitsStored, in which overlays, and with them names, were once stored."""
    allocated, stored = dataset.BitsAllocated, dataset.BitsStored
    whole = allocated == 16 and dataset.get("HighBit") == stored - 1 and 0 < stored < 16
    if not whole or not UID(dataset.file_meta.TransferSyntaxUID).is_little_endian:
        return pixels
    values = np.frombuffer(pixels, "<u2")
    kept = values & np.uint16(2**stored - 1)
    if dataset.get("PixelRepresentation"):
        kept = ((kept << (16 - stored)).view("<i2") >> (16 - stored)).view("<u2")
    return kept.tobytes()


def _clean_frames(dataset: Dataset, syntax: UID) -> None:
    frames = int(dataset.get("NumberOfFrames") or 1)
    if syntax in JPEG2000_FAMILY:
        clean = _jpeg2000
    elif syntax in JPEG or syntax in JPEG_LS:
        clean = _jpeg
    else:
        raise _fault(f"hidden text cannot be removed from pixels of the transfer syntax {syntax.name}")
    cleaned = [clean(frame) for frame in generate_frames(dataset.PixelData, number_of_frames=frames)]
    if len(cleaned) != frames:
        raise _fault(f"there are {len(cleaned)} frames of pixels where the header declares {frames}")
    dataset["PixelData"].value = encapsulate(cleaned)
    dataset["PixelData"].is_undefined_length = True


def _jpeg2000(frame: bytes) -> bytes:
    """A codestream (ISO/IEC 15444-1 annex A) without comments and without bytes after its end."""
    if frame[:2] != b"\xff\x4f":
        raise _fault("the pixels are not a JPEG 2000 codestream")
    out, at = [frame[:2]], 2
    for marker, segment in _segments(frame, at, {_SOT}):
        at += len(segment)
        if marker != _COM:
            out.append(segment)
    while frame[at : at + 2] == bytes([0xFF, _SOT]):
        (length,) = struct.unpack_from(">I", frame, at + 6)
        end = at + length if length else frame.rfind(b"\xff\xd9")
        if not at + 14 <= end <= len(frame):
            raise _fault("the pixels are cut off")
        inside = at
        for marker, segment in _segments(frame, at, {_SOD}):
            inside += len(segment)
            if marker == _COM:
                # Lengths stated elsewhere include it.
                raise _fault("there is a comment among the compressed pixels")
        out.append(frame[at:end])
        at = end
    if frame[at : at + 2] != bytes([0xFF, _EOC]):
        raise _fault("the pixels are cut off")
    return b"".join(out) + frame[at : at + 2]


def _segments(frame: bytes, at: int, until: set[int]) -> Iterator[tuple[int, bytes]]:
    """Marker segments from `at` to the first marker of `until`."""
    while frame[at + 1] not in until:
        if frame[at] != 0xFF:
            raise _fault("the pixels are damaged")
        size = 2 + struct.unpack_from(">H", frame, at + 2)[0]
        yield frame[at + 1], frame[at : at + size]
        at += size


def _jpeg(frame: bytes) -> bytes:
    """A JPEG or JPEG-LS codestream without comments, application segments and bytes after its end."""
    if frame[:2] != b"\xff\xd8":
        raise _fault("the pixels are not a JPEG codestream")
    out, at = [frame[:2]], 2
    while True:
        if frame[at] != 0xFF:
            raise _fault("the pixels are damaged")
        code = frame[at + 1]
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        if code == _EOC:
            return b"".join(out) + frame[at : at + 2]
        end = at + 2 if code in _JPEG_BARE else at + 2 + struct.unpack_from(">H", frame, at + 2)[0]
        if code == 0xDA:  # the scan: entropy-coded data follows the segment, up to the next true marker
            end = _end_of_scan(frame, end)
        if code not in _JPEG_TEXT:
            out.append(frame[at:end])
        at = end


def _end_of_scan(frame: bytes, at: int) -> int:
    while (at := frame.find(b"\xff", at)) >= 0 and at + 1 < len(frame):
        code = frame[at + 1]
        # 00 to 7F follow a byte FF of the data itself (JPEG-LS stuffs a bit, JPEG a byte).
        if code >= 0x80 and code not in _JPEG_BARE and code != 0xFF:
            return at
        at += 1 if code == 0xFF else 2
    raise _fault("the pixels are cut off")
