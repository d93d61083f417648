"""The size that a compressed frame states, read from its markers before any decoder is trusted."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

JPEG2000_FAMILY = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)

_START, _END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class FrameSize:
    """Rows, columns and samples of a frame, and bits and sign of a sample, as stated in its codestream."""

    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool = False


def frame_size(frame: bytes, syntax: UID) -> FrameSize | None:
    """The size stated in the codestream of a frame; ``None`` for a syntax without a codestream.

    Parameters
    ----------
    frame
        One encapsulated frame.
    syntax
        Its transfer syntax.

    Raises
    ------
    ValueError
        If the codestream is damaged or ends too early.

    References
    ----------
    ISO/IEC 15444-1 annex A (JPEG 2000), 14495-1 annex C (JPEG-LS), 10918-1 annex B (JPEG).
    """
    if syntax in JPEG2000_FAMILY:
        return _jpeg2000(frame)
    if syntax in JPEG_LS or syntax in JPEG:
        return _jpeg(frame)
    return None


def _jpeg2000(frame: bytes) -> FrameSize:
    try:
        if frame[:4] != b"\xff\x4f\xff\x51":
            raise ValueError("it does not start with a JPEG 2000 codestream")
        x1, y1, x0, y0 = struct.unpack_from(">4I", frame, 8)
        samples, depth = struct.unpack_from(">HB", frame, 40)
        _walk_tile_parts(frame)
    except struct.error:
        raise ValueError("the codestream ends too early") from None
    return FrameSize(y1 - y0, x1 - x0, samples, (depth & 0x7F) + 1, bool(depth & 0x80))


def _walk_tile_parts(frame: bytes) -> None:
    """Follow the lengths from the main header through each tile-part to the end marker."""
    at = 2
    while (marker := frame[at : at + 2]) != b"\xff\x90":
        if marker[:1] != b"\xff":
            raise ValueError("the main header of the codestream is damaged")
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    while frame[at : at + 2] == b"\xff\x90":
        (length,) = struct.unpack_from(">I", frame, at + 6)
        at = at + length if length else frame.rfind(_END)
        if length and length < 14:
            raise ValueError("a tile-part of the codestream is damaged")
    if frame[at : at + 2] != _END:
        raise ValueError("the codestream ends too early or is damaged")


def _jpeg(frame: bytes) -> FrameSize:
    if frame[:2] != _START:
        raise ValueError("it does not start with a JPEG codestream")
    if not frame.rstrip(b"\0").endswith(_END):
        raise ValueError("the codestream ends too early")
    at = 2
    try:
        while True:
            marker, code = frame[at], frame[at + 1]
            if marker != 0xFF:
                raise ValueError("the markers of the codestream are damaged")
            if code == 0xFF:  # a fill byte
                at += 1
                continue
            # A frame header: SOF0 to SOF15 without the tables among them, or SOF55 of JPEG-LS.
            if (0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)) or code == 0xF7:
                bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
                return FrameSize(rows, columns, samples, bits)
            at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    except (struct.error, IndexError):
        raise ValueError("the codestream has no frame header") from None
