"""NIfTI-1 files, by which volumes go to medvit and come back: RAS+ millimetres, as in 3D Slicer."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .errors import MedViTError
from .volume import Volume

_CODES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_FIELDS: list[tuple[Any, ...]] = [
    ("sizeof_hdr", "i4"), ("unused", "S36"), ("dim", "i2", 8), ("intent", "S14"), ("datatype", "i2"),
    ("bitpix", "i2"), ("slice_start", "i2"), ("pixdim", "f4", 8), ("vox_offset", "f4"), ("scl_slope", "f4"),
    ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"), ("xyzt_units", "u1"), ("times", "S24"),
    ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i2"), ("sform_code", "i2"), ("quatern", "f4", 3),
    ("qoffset", "f4", 3), ("srow", "f4", (3, 4)), ("intent_name", "S16"), ("magic", "S4"),
]  # fmt: skip
_MILLIMETRES = 2
_SCANNER = 1


def write_nifti(path: Path, volume: Volume) -> Path:
    """Write `volume` to a ``.nii.gz``, in its own data type and with its own grid.

    Raises
    ------
    MedViTError
        If NIfTI has no such data type, or an axis is too long for it.
    """
    voxels = volume.voxels
    code = next((c for c, kind in _CODES.items() if np.dtype(kind) == voxels.dtype.newbyteorder("=")), None)
    if code is None or max(voxels.shape) > 32767:
        raise MedViTError(f"{volume.name} ({voxels.dtype}, {voxels.shape}) cannot be handed over as NIfTI")
    header = np.zeros((), _dtype("<"))
    header["sizeof_hdr"], header["vox_offset"], header["magic"] = 348, 352, b"n+1\0"
    header["dim"] = [3, *voxels.shape, 1, 1, 1, 1]
    header["datatype"], header["bitpix"], header["scl_slope"] = code, voxels.dtype.itemsize * 8, 1
    header["pixdim"] = [1, *volume.spacing, 0, 0, 0, 0]
    header["xyzt_units"], header["sform_code"], header["srow"] = _MILLIMETRES, _SCANNER, volume.affine[:3]
    content = header.tobytes() + bytes(4) + voxels.astype(voxels.dtype.newbyteorder("<")).tobytes(order="F")
    path.write_bytes(gzip.compress(content, compresslevel=1))
    return path


def read_nifti(content: bytes, name: str) -> Volume:
    """A volume from the bytes of a ``.nii`` or ``.nii.gz`` file that medvit or one of its servers wrote.

    Raises
    ------
    MedViTError
        If it is not such a file, ends too early, or does not say where its voxels are.
    """
    try:
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, OSError, zlib.error):
        raise MedViTError(f"the result {name} is damaged; run again") from None
    order: Literal["<", ">"] = "<" if content[:4] == (348).to_bytes(4, "little") else ">"
    if len(content) < 352 or content[344:347] != b"n+1":
        raise MedViTError(f"the result {name} is not a NIfTI image")
    header = np.frombuffer(content, _dtype(order), count=1)[0]
    rank = int(header["dim"][0])
    shape = [int(n) for n in header["dim"][1 : rank + 1]]
    kind = _CODES.get(int(header["datatype"]))
    if kind is None or header["sform_code"] < 1 or any(n != 1 for n in shape[3:]):
        raise MedViTError(f"the result {name} is not one volume with a place in space")
    shape = [*shape, 1, 1][:3]
    dtype, start = np.dtype(kind).newbyteorder(order), int(header["vox_offset"])
    count = int(np.prod(shape))
    if len(content) < start + count * dtype.itemsize:
        raise MedViTError(f"the result {name} ends too early; run again")
    voxels = np.frombuffer(content, dtype, count, start).reshape(shape, order="F")
    return Volume(_scaled(voxels.astype(kind), header), _affine(header), name)


def _dtype(order: Literal["<", ">"]) -> np.dtype:
    return np.dtype(_FIELDS).newbyteorder(order)


def _affine(header: Any) -> np.ndarray:
    return np.vstack([np.asarray(header["srow"], dtype=float), [0, 0, 0, 1]])


def _scaled(voxels: np.ndarray, header: Any) -> np.ndarray:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    unscaled = not np.isfinite([slope, intercept]).all() or slope == 0 or (slope, intercept) == (1, 0)
    return voxels if unscaled else voxels * slope + intercept
