"""What is hidden in pixel data is removed; the pixels themselves stay bit for bit."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    MPEG2MPML,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from medvit.errors import StudyError
from medvit.studies.deidentification.pixels import without_hidden_text


def segment(code: int, content: bytes) -> bytes:
    """A marker segment: its length counts the two bytes of the length itself."""
    return bytes([0xFF, code]) + struct.pack(">H", len(content) + 2) + content


def native(pixels: bytes, syntax: UID = ExplicitVRLittleEndian, **header: object) -> Dataset:
    """An image of 2 x 2 pixels in 16 bits, unless `header` says otherwise."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    stated = {
        "Rows": 2, "Columns": 2, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
        "PixelRepresentation": 0,
    } | header  # fmt: skip
    for keyword, value in stated.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels
    return dataset


def compressed(syntax: UID, *frames: bytes, **header: object) -> Dataset:
    """An image of one or more compressed frames."""
    return native(encapsulate(list(frames)), syntax, NumberOfFrames=len(frames), **header)


def frames_of(dataset: Dataset) -> list[bytes]:
    return list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames)))


TABLE = segment(0xDB, b"\0" * 65)
# FF 00 is a stuffed byte of the data, FF D0 a restart: neither ends the scan.
SCAN = segment(0xDA, b"\1\1\0\0\x3f\0") + b"\x12\xff\x00\x34\xff\xd0\x56"
JPEG = b"\xff\xd8" + TABLE + SCAN + b"\xff\xd9"

SIZE = segment(0x51, b"\0" * 38)
TILE = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14 + 4, 0, 1) + b"\xff\x93" + b"\xaa\xbb\xcc\xdd"
J2K = b"\xff\x4f" + SIZE + TILE + b"\xff\xd9"


def test_jpeg_loses_comments_application_segments_fill_bytes_and_what_follows() -> None:
    exif, comment = segment(0xE1, b"Exif Jane Doe"), segment(0xFE, b"Jane Doe")
    hidden = b"\xff\xd8" + exif + TABLE + b"\xff" + comment + SCAN + b"\xff\xd9" + b"Jane Doe"
    dataset = compressed(JPEGBaseline8Bit, hidden)
    without_hidden_text(dataset)
    (frame,) = frames_of(dataset)
    assert frame.rstrip(b"\0") == JPEG


def test_jpeg_2000_loses_comments_and_what_follows() -> None:
    hidden = b"\xff\x4f" + SIZE + segment(0x64, b"\0\1Jane Doe") + TILE + b"\xff\xd9" + b"Jane Doe"
    dataset = compressed(JPEG2000Lossless, hidden, J2K)
    without_hidden_text(dataset)
    assert [frame.rstrip(b"\0") for frame in frames_of(dataset)] == [J2K, J2K]


def test_jpeg_2000_may_leave_the_length_of_its_last_tile_open() -> None:
    tile = TILE.replace(struct.pack(">I", 18), struct.pack(">I", 0))
    dataset = compressed(JPEG2000Lossless, b"\xff\x4f" + SIZE + tile + b"\xff\xd9" + b"Jane")
    without_hidden_text(dataset)
    assert frames_of(dataset)[0].rstrip(b"\0") == b"\xff\x4f" + SIZE + tile + b"\xff\xd9"


@pytest.mark.parametrize(
    ("syntax", "frame", "words"),
    [
        (JPEGBaseline8Bit, b"GIF89a", "not a JPEG codestream"),
        (JPEGBaseline8Bit, JPEG[:-2], "cut off"),
        (JPEGBaseline8Bit, b"\xff\xd8\x00\x00" + TABLE, "damaged"),
        (JPEG2000Lossless, JPEG, "not a JPEG 2000 codestream"),
        (JPEG2000Lossless, J2K[:-2] + b"\0\0", "cut off"),
        (JPEG2000Lossless, J2K.replace(struct.pack(">I", 18), struct.pack(">I", 9000)), "cut off"),
        (MPEG2MPML, b"\0\0\1\xb3", "hidden text cannot be removed from pixels of the transfer syntax"),
    ],
)
def test_what_cannot_be_separated_is_refused(syntax: UID, frame: bytes, words: str) -> None:
    with pytest.raises(StudyError, match=words) as error:
        without_hidden_text(compressed(syntax, frame))
    assert error.value.code == "deidentify-pixels"


def test_a_comment_within_a_tile_is_refused_since_lengths_include_it() -> None:
    inside = segment(0x64, b"Jane")
    tile = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 18 + len(inside), 0, 1) + inside + TILE[12:]
    with pytest.raises(StudyError, match="a comment among the compressed pixels"):
        without_hidden_text(compressed(JPEG2000Lossless, b"\xff\x4f" + SIZE + tile + b"\xff\xd9"))


def test_bytes_after_native_pixels_are_cut_off() -> None:
    dataset = native(bytes(range(8)) + b"Ja")
    without_hidden_text(dataset)
    assert dataset.PixelData == bytes(range(8))


def test_odd_pixels_are_padded_to_an_even_length_with_a_zero() -> None:
    dataset = native(b"\1\2\3J", Rows=1, Columns=3, BitsAllocated=8, BitsStored=8, HighBit=7)
    without_hidden_text(dataset)
    assert dataset.PixelData == b"\1\2\3\0"


@pytest.mark.parametrize(("pixels", "words"), [(bytes(7), "cut off"), (bytes(8 + 6), "more bytes")])
def test_native_pixels_of_the_wrong_length_are_refused(pixels: bytes, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        without_hidden_text(native(pixels))


@pytest.mark.parametrize(
    ("signed", "stored", "kept"),
    [(0, [0xF123, 0x0FFF, 0x8000, 0x0001], [0x0123, 0x0FFF, 0x0000, 0x0001]),
     (1, [0x7FFF, 0x0800, 0x17FF, 0xF001], [0xFFFF, 0xF800, 0x07FF, 0x0001])],
)  # fmt: skip
def test_bits_above_those_stored_are_cleared_or_repeat_the_sign(
    signed: int, stored: list[int], kept: list[int]
) -> None:
    dataset = native(np.array(stored, "<u2").tobytes(), BitsStored=12, HighBit=11, PixelRepresentation=signed)
    without_hidden_text(dataset)
    assert np.frombuffer(dataset.PixelData, "<u2").tolist() == kept


def test_big_endian_pixels_keep_their_bits() -> None:
    pixels = np.array([0xF123, 1, 2, 3], ">u2").tobytes()
    dataset = native(pixels, ExplicitVRBigEndian, BitsStored=12, HighBit=11)
    without_hidden_text(dataset)
    assert dataset.PixelData == pixels
