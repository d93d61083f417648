"""Reading Analyze 7.5 (``.hdr``/``.img``) and FreeSurfer (``.mgz``, ``.mgh``) by nibabel and the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import StudyError
from medvit.studies.gate import BOMB_RATIO, BOMB_SIZE, doubts, finite, placement_fault, size_fault
from medvit.studies.study import Grid

ANALYZE_DOUBT = (
    "Analyze files do not say left from right: the first axis was taken to run to the patient's left, as SPM "
    "writes it. Check a side that you know before you trust left and right."
)
# Right-handed in the file's own words ("radiological" storage): Analyze states no orientation.
_DO = "convert it to NIfTI with the program that wrote it"


def read_header(path: Path) -> tuple[Grid, int, tuple[str, ...]]:
    """The grid of one volume, the number of volumes, and notes for the user.

    Raises
    ------
    StudyError
        If the header is damaged, or does not place one grey volume in the patient.
    """
    image = _opened(path)
    shape = (*image.shape, 1, 1)[:4] if len(image.shape) <= 4 else image.shape
    if len(shape) > 4 or (fault := size_fault(shape[:3])):
        raise StudyError("image-size", fault or f"has {len(shape)} dimensions", path=path, do=_DO)
    if image.get_data_dtype().kind not in "iuf":
        what = f"holds voxels of the type {image.get_data_dtype()}"
        raise StudyError("image-datatype", what, path=path, do=_DO)
    x, y, z, volumes = (int(n) for n in shape)
    affine = np.array(image.affine, np.float64)
    if fault := placement_fault(affine):
        raise StudyError("image-affine", f"has axes that {fault}", path=path, do=_DO)
    voxels = files_of(path)[-1]
    packed, held = voxels.suffix in (".gz", ".mgz"), voxels.stat().st_size
    needed = x * y * z * volumes * image.get_data_dtype().itemsize
    if packed and needed > max(BOMB_SIZE, BOMB_RATIO * held):
        raise StudyError("image-bomb", f"would grow from {held} bytes to {needed}", path=path, do=_DO)
    if not packed and held < needed:
        what = f"has {held} bytes where its voxels alone take {needed}"
        raise StudyError("image-truncated", what, path=voxels, do="fetch or export the file again")
    said = (ANALYZE_DOUBT,) if path.suffix.lower() == ".hdr" else ()
    return Grid((x, y, z), affine), volumes, (*said, *doubts(affine))


def read_image(
    path: Path, volume: int | None, non_finite: float | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """One volume (X, Y, Z) float32, scaled, and the decisions of the reader.

    Raises
    ------
    StudyError
        Under the same conditions as `read_header`, or if voxels are missing, damaged or not finite.
    """
    grid, _, notes = read_header(path)
    image = _opened(path)
    try:
        index = (..., volume or 0) if len(image.shape) == 4 else ...
        array = np.asarray(image.dataobj[index], np.float32)
    except Exception:  # a damaged stream raises errors of gzip, zlib, NumPy or nibabel
        what = "ends before its voxels do, or is damaged"
        raise StudyError("image-truncated", what, path=path, do="fetch or export the file again") from None
    array = np.ascontiguousarray(array.reshape(grid.shape))
    return array, (*notes, *finite(array, path, "image-non-finite", non_finite))


def files_of(path: Path) -> tuple[Path, ...]:
    """The file, and for Analyze also the file of the voxels."""
    if path.suffix.lower() != ".hdr":
        return (path,)
    beside = [path.with_suffix(suffix) for suffix in (".img", ".img.gz", ".IMG")]
    return (path, *[file for file in beside if file.is_file()][:1])


def _opened(path: Path) -> Any:
    import nibabel

    if path.suffix.lower() == ".hdr" and len(files_of(path)) == 1:
        do = "put the .img beside the .hdr, under the same name"
        raise StudyError("analyze-pair", "is the header of a pair, whose .img is missing", path=path, do=do)
    try:
        return nibabel.load(path)
    except Exception as error:  # a damaged header raises many kinds of errors
        said = " ".join(str(error).split())[:100]
        what = f"cannot be read: {said}" if said else "is damaged"
        raise StudyError("image-damaged", what, path=path, do="fetch or export the file again") from None
