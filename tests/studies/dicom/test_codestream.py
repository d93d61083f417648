"""Sizes are read from the markers of a frame, and a frame that is cut off is found out."""

from __future__ import annotations

import struct

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless

from medvit.studies.dicom.codestream import FrameSize, frame_size


def jpeg(marker: int = 0xC0, fill: bytes = b"") -> bytes:
    """A JPEG codestream without pixels: a comment, then a frame header of 30 rows by 50 columns."""
    comment = b"\xff\xfe" + struct.pack(">H", 5) + b"abc"
    header = bytes([0xFF, marker]) + struct.pack(">HBHHB", 8, 12, 30, 50, 1)
    return b"\xff\xd8" + comment + fill + header + b"\xff\xd9"


def jpeg2000(length: int = 14, depth: int = 0x8B) -> bytes:
    """A JPEG 2000 codestream of one empty tile-part: an image area from (5, 3) to (55, 33)."""
    size = struct.pack(">HH4I4IHBBB", 41, 0, 55, 33, 5, 3, 55, 33, 0, 0, 1, depth, 1, 1)
    tile = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, length, 0, 1) + b"\xff\x93"
    return b"\xff\x4f\xff\x51" + size + tile + b"\xff\xd9"


@pytest.mark.parametrize(("syntax", "marker"), [(JPEGBaseline8Bit, 0xC0), (JPEGLSLossless, 0xF7)])
def test_jpeg_states_rows_columns_samples_and_bits(syntax: str, marker: int) -> None:
    assert frame_size(jpeg(marker, fill=b"\xff\xff"), syntax) == FrameSize(30, 50, 1, 12)
    assert frame_size(jpeg(marker) + b"\0", syntax) == FrameSize(30, 50, 1, 12)


def test_jpeg_2000_states_its_area_from_its_offset_and_the_sign() -> None:
    assert frame_size(jpeg2000(), JPEG2000Lossless) == FrameSize(30, 50, 1, 12, signed=True)
    assert frame_size(jpeg2000(length=0, depth=0x07), JPEG2000Lossless) == FrameSize(30, 50, 1, 8)


@pytest.mark.parametrize(
    ("frame", "syntax", "words"),
    [
        (jpeg()[:-2], JPEGBaseline8Bit, "ends too early"),
        (b"\xff\xd8\xff\xd9", JPEGBaseline8Bit, "no frame header"),
        (b"\xff\xd8\x00\x00" + jpeg()[2:], JPEGBaseline8Bit, "markers of the codestream are damaged"),
        (jpeg2000(), JPEGBaseline8Bit, "does not start with a JPEG codestream"),
        (jpeg(), JPEG2000Lossless, "does not start with a JPEG 2000 codestream"),
        (jpeg2000()[:30], JPEG2000Lossless, "ends too early"),
        (jpeg2000()[:-2], JPEG2000Lossless, "ends too early or is damaged"),
        (jpeg2000(length=12), JPEG2000Lossless, "tile-part of the codestream is damaged"),
        (jpeg2000(length=15), JPEG2000Lossless, "ends too early or is damaged"),
    ],
)
def test_a_damaged_frame_is_refused(frame: bytes, syntax: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        frame_size(frame, syntax)


def test_other_syntaxes_have_no_codestream() -> None:
    assert frame_size(b"anything", ExplicitVRLittleEndian) is None
