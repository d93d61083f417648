"""The gate for NIfTI headers: only unambiguous ones pass, and no voxel is read."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import numpy as np

from medvit.errors import StudyError
from medvit.studies.gate import (
    BELIEVABLE_POSITION,
    BOMB_RATIO,
    BOMB_SIZE,
    MAX_AXIS,
    MAX_VOXELS,
    doubts,
    is_sheared,
    placement_fault,
)
from medvit.studies.study import Grid

MAX_EXTENSION = 2**26  # bytes between the header and the voxels

# Each cause of a refusal, with the header field at fault and the remedy.
FAULTS = {
    "unreadable": ("", "check the path and its permissions"),
    "nifti-truncated": ("", "fetch or export the file again"),
    "nifti-gzip-damaged": ("", "fetch or export the file again"),
    "nifti-gzip-bomb": ("dim", "if it really is an image, store it without compression"),
    "nifti-wrong-length": ("dim", "its size or voxel type may be wrong, so convert the image again"),
    "nifti-sizeof-hdr": ("sizeof_hdr", "convert the image to NIfTI again"),
    "nifti-magic": ("magic", "convert the image to NIfTI again; Analyze does not tell left from right"),
    "nifti-pair": ("magic", "put the .img beside the .hdr, under the same name"),
    "nifti-dim": ("dim", f"export it as a 2D or 3D image with 1 to {MAX_AXIS} voxels along each axis"),
    "nifti-4d": ("dim", "extract the volume to work on into a file of its own"),
    "nifti-5d": ("dim", "export one volume, or one channel, per file"),
    "nifti-too-large": ("dim", f"crop or resample it to at most {MAX_VOXELS} voxels"),
    "nifti-datatype": ("datatype", "export it as one real number per voxel"),
    "nifti-vox-offset": ("vox_offset", "convert the image to NIfTI again"),
    "nifti-scaling": ("scl_slope, scl_inter", "set them to 1 and 0 if the values are not scaled"),
    "nifti-units": (
        "xyzt_units",
        "convert pixdim, sform and qform to millimetres",
    ),
    "nifti-no-orientation": (
        "sform_code, qform_code",
        "convert the image again, or set the sform",
    ),
    "nifti-qform": ("pixdim, quatern", "set the sform, or convert the image again"),
    "nifti-sform": ("srow", "convert the image from the original again"),
    "nifti-sform-qform": ("sform_code, qform_code", "set the code of the wrong one to 0"),
}

# By the size of the header: the magic of a single file, and that of a pair.
_MAGIC = {348: (b"n+1", b"ni1"), 540: (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")}
_DATATYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_REFUSED_DATATYPES = {
    1: "one bit per voxel", 32: "complex numbers", 128: "RGB colour", 1536: "128-bit floats",
    1792: "complex numbers", 2048: "complex numbers", 2304: "RGBA colour",
}  # fmt: skip
_UNITS = {1: "metres", 3: "micrometres"}


@dataclass(frozen=True)
class NiftiHeader:
    """The facts in a NIfTI header that has passed the gate.

    Parameters
    ----------
    path
        The file.
    raw
        The 348 or 540 bytes of the header, which are reused in results.
    dim
        Sizes as stated, trailing ones included.
    grid
        Grid of one volume; a 2D image has a trailing 1.
    volumes
        Number of volumes along the fourth axis; 1 for a 3D image.
    dtype
        Type of the stored voxels, with their byte order.
    data, offset
        The file of the voxels (for a pair, the ``.img``), and the byte of the first voxel in the uncompressed
        file.
    slope, inter
        Stored value to value: ``value = stored * slope + inter``.
    compressed
        Whether the voxels are compressed by gzip, regardless of the file name.
    notes
        Decisions that the user should know.
    """

    path: Path
    raw: bytes
    dim: tuple[int, ...]
    grid: Grid
    volumes: int
    dtype: np.dtype
    data: Path
    offset: int
    slope: float
    inter: float
    compressed: bool
    notes: tuple[str, ...]


def read_header(path: Path | str) -> NiftiHeader:
    """The header of a NIfTI-1 or NIfTI-2 image, which is refused if it is ambiguous.

    Takes a millisecond whatever the size of the file.

    Parameters
    ----------
    path
        A single file, or the ``.hdr`` of a pair.

    Raises
    ------
    StudyError
        With the header field at fault as its `tag`.
    """
    path = Path(path)
    with opened(path) as (file, _):
        raw = _read_raw(path, file)
    fields, order = _fields(raw)
    data = _data_file(path, raw)
    dim, shape, volumes = _sizes(path, fields)
    dtype = _dtype(path, fields, order)
    offset = _offset(path, fields, len(raw) + 4 if data == path else 0)
    with opened(data) as (_, compressed):
        _check_length(data, offset, int(np.prod(dim)) * dtype.itemsize, compressed)
    slope, inter = _scaling(path, fields)
    affine, notes = placement(path, fields, shape)
    grid = Grid(shape, affine)
    return NiftiHeader(path, raw, dim, grid, volumes, dtype, data, offset, slope, inter, compressed, notes)


def check_single(header: NiftiHeader) -> None:
    """Refuse a file of several volumes."""
    if header.volumes > 1:
        refuse(header.path, "nifti-4d", f"holds {header.volumes} volumes where one is expected")


def refuse(path: Path | None, code: str, what: str, tag: str | None = None) -> NoReturn:
    """Raise the `StudyError` of one of `FAULTS`."""
    field, do = FAULTS[code]
    raise StudyError(code, what, path=path, do=do, tag=field if tag is None else tag)


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], bool]]:
    """The content of the file, and whether it is gzip, regardless of its name."""
    try:
        file = path.open("rb")
    except OSError as error:
        refuse(path, "unreadable", f"cannot be opened: {error.strerror}")
    with file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not compressed:
            yield file, False
            return
        try:
            with gzip.GzipFile(fileobj=file) as content:
                yield content, True  # type: ignore[misc]
        except EOFError:  # gzip's error for a stream that stops early
            refuse(path, "nifti-truncated", "ends in the middle of its gzip stream")
        except (zlib.error, gzip.BadGzipFile) as error:
            refuse(path, "nifti-gzip-damaged", f"has a damaged gzip stream: {error}")


def read_exactly(path: Path, file: IO[bytes], size: int) -> bytes:
    """The next `size` bytes, all of them."""
    content = file.read(size)
    if len(content) < size:
        refuse(path, "nifti-truncated", "ends before its header or its voxels do")
    return content


def _read_raw(path: Path, file: IO[bytes]) -> bytes:
    raw = read_exactly(path, file, 348)
    for size in _MAGIC:
        if size in (_sizeof_hdr(raw, "<"), _sizeof_hdr(raw, ">")):
            return raw + read_exactly(path, file, size - 348)
    stated = _sizeof_hdr(raw, "<")
    refuse(path, "nifti-sizeof-hdr", f"states a header of {stated} bytes, unlike any NIfTI")


def _sizeof_hdr(raw: bytes, order: str) -> int:
    return int(np.frombuffer(raw, order + "i4", 1)[0])


def _fields(raw: bytes) -> tuple[Any, Literal["<", ">"]]:
    """The named fields of a header, and its byte order."""
    from nibabel.nifti1 import header_dtype as nifti1
    from nibabel.nifti2 import header_dtype as nifti2

    order: Literal["<", ">"] = "<" if _sizeof_hdr(raw, "<") in _MAGIC else ">"
    layout = nifti1 if len(raw) == 348 else nifti2
    return np.frombuffer(raw, layout.newbyteorder(order))[0], order


def _data_file(path: Path, raw: bytes) -> Path:
    """The file of the voxels."""
    magic = raw[344:348].rstrip(b"\0") if len(raw) == 348 else raw[4:12]
    single, pair = _MAGIC[len(raw)]
    if magic == pair:
        beside = [path.with_suffix(suffix) for suffix in (".img", ".img.gz", ".IMG")]
        if found := next((file for file in beside if file.is_file()), None):
            return found
        refuse(path, "nifti-pair", "is the header of a pair, whose .img is missing")
    if magic != single:
        refuse(path, "nifti-magic", f"carries the magic {magic!r} instead of {single!r}")
    return path


def _sizes(path: Path, fields: Any) -> tuple[tuple[int, ...], tuple[int, int, int], int]:
    rank = int(fields["dim"][0])
    if not 2 <= rank <= 7:
        refuse(path, "nifti-dim", f"states {rank} dimensions", "dim[0]")
    dim = tuple(int(n) for n in fields["dim"][1 : rank + 1])
    stated = f"states a size of {' x '.join(map(str, dim))} voxels"
    if not all(1 <= n <= MAX_AXIS for n in dim):
        refuse(path, "nifti-dim", stated)
    x, y, z, volumes, *rest = (*dim, 1, 1)
    if any(n != 1 for n in rest):
        refuse(path, "nifti-5d", stated)
    if x * y * z > MAX_VOXELS:
        refuse(path, "nifti-too-large", stated)
    return dim, (x, y, z), volumes


def _dtype(path: Path, fields: Any, order: str) -> np.dtype:
    code = int(fields["datatype"])
    if code not in _DATATYPES:
        what = _REFUSED_DATATYPES.get(code, f"voxels of the unknown type {code}")
        refuse(path, "nifti-datatype", f"holds {what}")
    return np.dtype(order + _DATATYPES[code])


def _offset(path: Path, fields: Any, least: int) -> int:
    offset = float(fields["vox_offset"])
    if not (least <= offset <= MAX_EXTENSION and offset.is_integer()):
        refuse(path, "nifti-vox-offset", f"states that its voxels begin at byte {offset:g}")
    return int(offset)


def _check_length(path: Path, offset: int, voxels: int, compressed: bool) -> None:
    held, stated = path.stat().st_size, offset + voxels
    if compressed:
        if stated > max(BOMB_SIZE, BOMB_RATIO * held):
            refuse(path, "nifti-gzip-bomb", f"would grow from {held} bytes to {stated}")
    elif held < stated:
        tag = "vox_offset" if held <= offset else "dim"
        refuse(path, "nifti-truncated", f"has {held} of the {stated} bytes that its header states", tag)
    elif held > stated:
        refuse(path, "nifti-wrong-length", f"has {held - stated} bytes more than its header states")


def _scaling(path: Path, fields: Any) -> tuple[float, float]:
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0:  # the standard's value for "not scaled"
        return 1.0, 0.0
    if not np.isfinite([slope, inter]).all():
        refuse(path, "nifti-scaling", f"scales its values by {slope:g} and shifts them by {inter:g}")
    return slope, inter


def placement(
    path: Path | None, fields: Any, shape: tuple[int, int, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Affine of a header (4x4, voxel index to RAS+ mm: the sform, else the qform), and notes for the user.

    Parameters
    ----------
    path
        The file, which errors name; ``None`` for an image in memory.
    fields
        The header by names of fields, such as one of nibabel.
    shape
        Size of one volume.

    Raises
    ------
    StudyError
        If the header states no placement, other units than millimetres, or contradictory ones.
    """
    unit = int(fields["xyzt_units"]) & 7
    if unit not in (0, 2):
        refuse(path, "nifti-units", f"states lengths in {_UNITS.get(unit, f'the unknown unit {unit}')}")
    sform = _sform(path, fields) if fields["sform_code"] > 0 else None
    qform, fault = _qform(fields) if fields["qform_code"] > 0 else (None, "")
    notes: list[str] = []
    if sform is not None and qform is not None:
        notes += _compare_forms(path, sform, qform, shape)
    elif sform is not None and fault:
        notes.append(f"The qform was left aside because of {fault}; the sform was used.")
    elif fault:
        refuse(path, "nifti-qform", f"has a qform with {fault}")
    affine = qform if sform is None else sform
    if affine is None:
        refuse(path, "nifti-no-orientation", "does not state where its voxels lie in the patient")
    return affine, (*notes, *doubts(affine))


def _sform(path: Path | None, fields: Any) -> np.ndarray:
    affine = np.vstack([*(fields[f"srow_{axis}"].astype(float) for axis in "xyz"), [0, 0, 0, 1]])
    if fault := placement_fault(affine):
        refuse(path, "nifti-sform", f"has an sform whose axes {fault}")
    return affine


def _qform(fields: Any) -> tuple[np.ndarray | None, str]:
    """The affine of the qform, or what is wrong with it."""
    from nibabel.quaternions import fillpositive, quat2mat

    spacing = fields["pixdim"][1:4].astype(float)
    quaternion = np.array([float(fields[f"quatern_{part}"]) for part in "bcd"])
    origin = np.array([float(fields[f"qoffset_{axis}"]) for axis in "xyz"])
    if not (spacing.min() > 1e-6 and spacing.max() < BELIEVABLE_POSITION):
        return None, f"a voxel spacing of {' x '.join(f'{step:g}' for step in spacing)}"
    if not (np.abs(quaternion).max() < 2 and np.abs(origin).max() < BELIEVABLE_POSITION):
        return None, "numbers that are not finite, or implausibly large"
    length = float(quaternion @ quaternion)
    if length > 1 + 1e-4:
        return None, "a quaternion longer than 1"
    if length > 1 - 1e-7:  # a half turn, except for the rounding of float32
        quaternion /= np.sqrt(length)
    affine = np.eye(4)
    mirrored = -1 if fields["pixdim"][0] < 0 else 1
    affine[:3, :3] = quat2mat(fillpositive(quaternion)) * spacing * (1, 1, mirrored)
    affine[:3, 3] = origin
    return affine, ""


def _compare_forms(
    path: Path | None, sform: np.ndarray, qform: np.ndarray, shape: tuple[int, int, int]
) -> Iterator[str]:
    # A registered image may have a scanner qform and a template sform, but not of other handedness or scale.
    # That of a tilted gantry is sheared in the sform alone: either the steps between voxels agree with those
    # of the qform, or, where its spacing is measured across the slices, the volumes of the voxels do.
    volumes = float(np.linalg.det(sform[:3, :3]) / np.linalg.det(qform[:3, :3]))
    steps = np.linalg.norm(sform[:3, :3], axis=0) / np.linalg.norm(qform[:3, :3], axis=0)
    if volumes < 0:
        refuse(path, "nifti-sform-qform", "has an sform and a qform that are mirror images of each other")
    if abs(volumes - 1) > 0.01 and not (is_sheared(sform) and np.abs(steps - 1).max() <= 0.01):
        refuse(path, "nifti-sform-qform", "has an sform and a qform that are of different scale")
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    apart = np.abs((sform - qform) @ np.vstack([corners, np.ones(8)])).max()
    if apart > 0.1:
        yield f"The sform and the qform place voxels up to {apart:.1f} mm apart; the sform was used."
