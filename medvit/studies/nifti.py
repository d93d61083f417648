"""Reading NIfTI: the voxels of a file whose header has passed the gate, decoded by slices to save memory."""

from __future__ import annotations

from typing import IO

import numpy as np

from medvit.studies.gate import finite
from medvit.studies.nifti_header import NiftiHeader, check_single, opened, read_exactly, read_header, refuse

__all__ = ["NiftiHeader", "read_header", "read_image"]

CHUNK = 2**23  # bytes decoded at a time


def read_image(
    header: NiftiHeader, volume: int | None = None, *, non_finite: float | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The voxels of a NIfTI file, scaled.

    Parameters
    ----------
    header
        Header that `read_header` returned.
    volume
        Index of the volume in a 4D file; ``None`` requires that there is only one.
    non_finite
        Value that replaces NaN and infinite voxels, which are refused otherwise.

    Returns
    -------
    array
        (X, Y, Z) float32, C-contiguous.
    notes
        Decisions that the user should know.

    Raises
    ------
    StudyError
        If voxels are missing, left over, damaged or not finite.
    """
    if volume is None:
        check_single(header)
    array = np.empty(header.grid.shape, np.float32)
    # Doubles beyond the range of float32 become infinite, and are caught as such.
    with opened(header.data) as (file, _), np.errstate(over="ignore", invalid="ignore"):
        bad = _fill(array, header, file, volume or 0)
    return array, finite(array, header.path, "nifti-non-finite", non_finite) if bad else ()


def _fill(array: np.ndarray, header: NiftiHeader, file: IO[bytes], volume: int) -> int:
    """Decode one volume into `array`, slice by slice, and return the number of voxels that are not finite."""
    x, y, z = array.shape
    slice_size = x * y * header.dtype.itemsize
    at_once = max(1, CHUNK // slice_size)
    scaled = (header.slope, header.inter) != (1.0, 0.0)
    bad = 0
    _skip(header, file, header.offset + volume * z * slice_size)
    for first in range(0, z, at_once):
        count = min(at_once, z - first)
        content = read_exactly(header.data, file, count * slice_size)
        slices = np.frombuffer(content, header.dtype).reshape((x, y, count), order="F")
        target = array[:, :, first : first + count]
        # Scaled in double precision, since stored integers may be large.
        target[...] = slices * np.float64(header.slope) + header.inter if scaled else slices
        bad += target.size - int(np.isfinite(target).sum())
    # Reading one byte more also makes gzip compare its checksum.
    if volume == header.volumes - 1 and file.read(1):
        refuse(header.data, "nifti-wrong-length", "holds more bytes than its header states")
    return bad


def _skip(header: NiftiHeader, file: IO[bytes], size: int) -> None:
    if not header.compressed:
        file.seek(size)
        return
    while size:
        size -= len(read_exactly(header.data, file, min(size, CHUNK)))
