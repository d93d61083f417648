"""Files in every transfer syntax and state of damage that the hazards need."""

from __future__ import annotations

import zlib
from pathlib import Path

import gdcm
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpegls": JPEGLSLossless,
    "j2k_lossless": JPEG2000Lossless,
    "jpeg_lossless_sv1": JPEGLosslessSV1,
}


def save(ds: Dataset, path: Path) -> Path:
    """Write a data set as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def save_as(ds: Dataset, path: Path, syntax: str) -> Path:
    """Write a data set in one of `SYNTAXES`."""
    target = SYNTAXES[syntax]
    if syntax == "jpeg_lossless_sv1":
        return save_by_gdcm(ds, path, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    if target.is_encapsulated:
        ds.compress(target, generate_instance_uid=False)
        return save(ds, path)
    if syntax == "big_endian":
        ds["PixelData"].value = _swapped(ds.PixelData)
    ds.file_meta.TransferSyntaxUID = target
    path.parent.mkdir(parents=True, exist_ok=True)
    little = syntax != "big_endian"
    ds.save_as(path, implicit_vr=syntax == "implicit", little_endian=little, enforce_file_format=True)
    return path


def _swapped(pixels: bytes) -> bytes:
    swapped = bytearray(pixels)
    swapped[::2], swapped[1::2] = pixels[1::2], pixels[::2]
    return bytes(swapped)


def save_by_gdcm(ds: Dataset, path: Path, syntax: int) -> Path:
    """Write a data set in one of gdcm's JPEG syntaxes, which pydicom has no encoder for."""
    save(ds, path)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetFileName(str(path))
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def cut(path: Path, at: int) -> None:
    """End a file at that byte, or so many before its end."""
    path.write_bytes(path.read_bytes()[:at])


def deflate_bomb(ds: Dataset, path: Path, gigabytes: float) -> Path:
    """A deflated file of a megabyte or two that unpacks to a private element of that size."""
    save_as(ds, path, "deflated")
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    block = bytes(2**24)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    blocks = round(gigabytes * 2**30 / len(block))
    # Explicit VR: group FFFC sorts behind the pixels. Fully flushed blocks can be repeated as they are.
    element = b"\xfc\xff\xfc\xffOB\0\0" + (blocks * len(block)).to_bytes(4, "little")
    whole = zlib.decompress(data[start:], -zlib.MAX_WBITS) + element
    head = packer.compress(whole) + packer.flush(zlib.Z_FULL_FLUSH)
    once = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.flush(zlib.Z_FINISH)
    path.write_bytes(data[:start] + head + once * blocks + end)
    return path


def nested_sequences(depth: int) -> bytes:
    """ReferencedImageSequence in itself, `depth` times, explicit VR little endian, undefined lengths."""
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return opening * depth + closing * depth


def insert_before(path: Path, tag: bytes, data: bytes) -> None:
    """Put raw elements in front of the first occurrence of a tag."""
    whole = path.read_bytes()
    at = whole.index(tag)
    path.write_bytes(whole[:at] + data + whole[at:])
