"""Reading GIPL, VTK, MRC, MINC and Bruker by ITK (``medvit[itk]``), with the checks of all readers."""

from __future__ import annotations

import gzip
import locale
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import StudyError
from medvit.studies.gate import BOMB_RATIO, BOMB_SIZE, doubts, finite, placement_fault, size_fault
from medvit.studies.study import Grid

_DO = "convert it to NIfTI with the program that wrote it"
_WITHOUT_DIRECTIONS = (".gipl", ".gipl.gz", ".vtk", ".mrc")
_SELF_CHECKED = (".mnc",)  # HDF5, which states its own length
_BLOCK = 2**20


def read_header(path: Path) -> tuple[Grid, tuple[str, ...]]:
    """The voxel grid of an image file, in RAS mm, and notes for the user.

    Raises
    ------
    StudyError
        If ITK is not installed or cannot read the file, or it does not hold one grey volume.
    """
    stated = _information(path)
    axes = stated.GetNumberOfDimensions()
    shape = tuple(int(stated.GetDimensions(axis)) for axis in range(axes))
    if fault := size_fault(shape) if axes in (2, 3) else f"has {axes} dimensions":
        raise StudyError("image-size", fault, path=path, do=_DO)
    if stated.GetNumberOfComponents() != 1:
        raise StudyError("image-datatype", "has several values per voxel", path=path, do=_DO)
    lps = np.eye(4)
    for axis in range(axes):
        lps[:axes, axis] = np.array(stated.GetDirection(axis)) * stated.GetSpacing(axis)
        lps[axis, 3] = stated.GetOrigin(axis)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    if fault := placement_fault(affine):
        raise StudyError("image-affine", f"has axes that {fault}", path=path, do=_DO)
    _check_length(path, int(np.prod(shape)) * stated.GetComponentSize())
    notes: tuple[str, ...] = ()
    if path.name.lower().endswith(_WITHOUT_DIRECTIONS):
        kind = path.name.removesuffix(".gz").rpartition(".")[2].upper()
        notes = (
            f"{kind} files do not state the direction of their axes: they were taken to run to the patient's "
            "left, back and head, as in ITK. Check a side that you know before you trust left and "
            "right.",
        )
    x, y, z = (*shape, 1)[:3]
    return Grid((x, y, z), affine), (*notes, *doubts(affine))


def read_image(path: Path, non_finite: float | None) -> tuple[np.ndarray, Grid, tuple[str, ...]]:
    """The voxels (X, Y, Z) float32, their grid, and the decisions of the reader.

    Raises
    ------
    StudyError
        Under the same conditions as `read_header`, or if voxels are missing, damaged or not finite.
    """
    grid, notes = read_header(path)
    itk = import_itk(f"reading {path}")
    try:
        # ITK gives the axes in the reverse order.
        with kept_locale():
            array = np.ascontiguousarray(itk.array_from_image(itk.imread(str(path), itk.F)).T, np.float32)
    except RuntimeError as error:
        raise _damaged(path, error) from None
    array = array.reshape(grid.shape)
    return array, grid, (*notes, *finite(array, path, "image-non-finite", non_finite))


def import_itk(what: str) -> Any:
    """The module ``itk``, which takes seconds to import.

    Parameters
    ----------
    what
        Feature that needs it, as a clause for the error.

    Raises
    ------
    StudyError
        If it is missing; the message gives the command that installs it.
    """
    try:
        import itk
    except ImportError:
        do = "install it: pip install 'medvit[itk]'"
        raise StudyError("needs-itk", f"{what} needs ITK, which is not installed", do=do) from None
    return itk


@contextmanager
def kept_locale() -> Iterator[None]:
    """Restore the locale afterwards: ITK's VTK reader sets "C", after which text files are not UTF-8."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _information(path: Path) -> Any:
    itk = import_itk(f"reading {path}")
    reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:
        what = "is named as an image, but ITK finds none in it"
        raise StudyError("image-damaged", what, path=path, do="fetch or export the file again")
    reader.SetFileName(str(path))
    try:
        with kept_locale():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, error) from None
    return reader


def _check_length(path: Path, needed: int) -> None:
    # Where a file ends too early, ITK fills the image with arbitrary memory.
    held = path.stat().st_size
    if path.suffix.lower() == ".gz":
        if needed > max(BOMB_SIZE, BOMB_RATIO * held):
            raise StudyError("image-bomb", f"would grow from {held} bytes to {needed}", path=path, do=_DO)
        held = _unpacked_size(path)
    needed += _header_size(path)
    if held < needed and not path.name.lower().endswith(_SELF_CHECKED):
        what = f"has {held} bytes where its header and voxels take {needed}"
        raise StudyError("image-truncated", what, path=path, do="fetch or export the file again")


def _header_size(path: Path) -> int:
    """Least number of bytes before the voxels."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        start = file.read(2048)
    if path.name.lower().endswith((".gipl", ".gipl.gz")):
        return 256
    if path.suffix.lower() == ".mrc":
        return 1024 + max(0, int.from_bytes(start[92:96], "little", signed=True))
    if path.suffix.lower() == ".vtk" and b"BINARY" in start:
        return max((m.end() for m in re.finditer(rb"(SCALARS|LOOKUP_TABLE)[^\n]*\n", start)), default=0)
    return 0


def _unpacked_size(path: Path) -> int:
    size = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(_BLOCK):
                size += len(block)
    except (EOFError, OSError, zlib.error) as error:
        raise _damaged(path, error) from None
    return size


def _damaged(path: Path, error: Exception) -> StudyError:
    said = " ".join(str(error).split())[-100:]
    return StudyError(
        "image-damaged", f"cannot be read: {said}", path=path, do="fetch or export the file again"
    )
