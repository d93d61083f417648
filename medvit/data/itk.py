"""NRRD and MetaImage in: a gate on their text headers, and SimpleITK for the voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np

from medvit.data.nifti_header import BELIEVABLE_POSITION, BOMB_RATIO, BOMB_SIZE, MAX_AXIS, MAX_VOXELS
from medvit.data.study import Grid
from medvit.errors import StudyError

MAX_HEADER = 2**20

# From the axes that a NRRD file names to RAS.
_TO_RAS = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
_BYTES = {
    "signed char": 1, "int8": 1, "int8_t": 1, "uchar": 1, "unsigned char": 1, "uint8": 1, "uint8_t": 1,
    "short": 2, "short int": 2, "signed short": 2, "signed short int": 2, "int16": 2, "int16_t": 2,
    "ushort": 2, "unsigned short": 2, "unsigned short int": 2, "uint16": 2, "uint16_t": 2,
    "int": 4, "signed int": 4, "int32": 4, "int32_t": 4, "uint": 4, "unsigned int": 4, "uint32": 4,
    "uint32_t": 4, "longlong": 8, "long long": 8, "int64": 8, "int64_t": 8, "ulonglong": 8,
    "unsigned long long": 8, "uint64": 8, "uint64_t": 8, "float": 4, "double": 8,
    "met_char": 1, "met_uchar": 1, "met_short": 2, "met_ushort": 2, "met_int": 4, "met_uint": 4,
    "met_long_long": 8, "met_ulong_long": 8, "met_float": 4, "met_double": 8,
}  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True)
class ItkHeader:
    """What the text header of a NRRD or MetaImage file says, once it has passed the gate.

    Parameters
    ----------
    path
        The file.
    grid
        Voxel grid in RAS+ mm; a 2D image has a trailing 1.
    reader
        SimpleITK's name of the format.
    notes
        What was decided and a person should know.
    """

    path: Path
    grid: Grid
    reader: str
    notes: tuple[str, ...] = ()


def read_header(path: Path | str) -> ItkHeader:
    """The header of a NRRD or MetaImage file, refused unless it places one grey volume in the patient.

    Raises
    ------
    StudyError
        With the header field at fault as its `tag`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(MAX_HEADER)
    except OSError as error:
        raise StudyError("unreadable", f"cannot be opened: {error.strerror}", path=path) from None
    if start.startswith(b"NRRD000"):
        return _nrrd(_Fields(path, start, ":", "\n\n"))
    if start[:256].lstrip().startswith((b"ObjectType", b"NDims", b"Comment")):
        return _meta_image(_Fields(path, start, "=", "ElementDataFile"))
    _refuse(path, "magic", "is neither a NRRD nor a MetaImage file")


def read_image(
    path: Path | str, *, non_finite: float | None = None
) -> tuple[np.ndarray, Grid, tuple[str, ...]]:
    """The voxels of a NRRD or MetaImage file.

    Parameters
    ----------
    path
        ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.
    non_finite
        What to put in place of NaN and infinite voxels, which are refused otherwise.

    Returns
    -------
    array
        (X, Y, Z) float32, C-contiguous.
    grid
        Where the voxels are, RAS+ mm.
    notes
        What was decided and a person should know.

    Raises
    ------
    StudyError
        If the header does not pass, or voxels are missing, damaged or not finite.
    """
    import SimpleITK

    header = read_header(path)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = SimpleITK.ReadImage(str(header.path), imageIO=header.reader)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        _refuse(header.path, "damaged", f"cannot be read: {reason}")
    # SimpleITK's arrays run z, y, x.
    voxels = SimpleITK.GetArrayViewFromImage(image)
    voxels = voxels.T if voxels.ndim == 3 else voxels.T[..., None]
    if voxels.shape != header.grid.shape:
        _refuse(header.path, "damaged", f"was read as {voxels.shape} voxels, not {header.grid.shape}")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(voxels, np.float32)
    finite = np.isfinite(array)
    if finite.all():
        return array, header.grid, header.notes
    bad = int(array.size - finite.sum())
    if non_finite is None:
        _refuse(header.path, "non-finite", f"has {bad} of {array.size} voxels that are NaN or infinite")
    array[~finite] = non_finite
    note = f"{bad} voxels that were NaN or infinite were set to {non_finite:g}."
    return array, header.grid, (*header.notes, note)


_ADVICE = {
    "magic": "convert it to NIfTI",
    "damaged": "fetch or export the file again",
    "non-finite": "replace them by the number that means 'no signal' in this image",
    "units": "convert it to millimetres",
    "data-file": "keep the voxels in the same file, or in one file beside it",
}


def _refuse(path: Path, cause: str, what: str, tag: str = "") -> NoReturn:
    do = _ADVICE.get(cause, "export it as one grey volume with its place in the patient")
    raise StudyError(f"itk-{cause}", what, path=path, do=do, tag=tag)


class _Fields:
    """The ``key: value`` or ``key = value`` lines of a header."""

    def __init__(self, path: Path, start: bytes, separator: str, last: str) -> None:
        self.path = path
        text = start.decode("latin-1").replace("\r\n", "\n")
        head, end, rest = text.partition(last)
        if not end and "\ndata file" not in text and "\ndatafile" not in text:
            _refuse(path, "damaged", "has a header without an end")
        lines = (head + end + rest.partition("\n")[0] if end.strip() else head).splitlines()
        pairs = (line.split(separator, 1) for line in lines if separator in line and not line.startswith("#"))
        self.values = {key.strip().lower(): value.strip() for key, value in pairs if value[:1] != "="}

    def text(self, *keys: str, default: str | None = None) -> str:
        """The first of `keys` that is there."""
        for key in keys:
            if key.lower() in self.values:
                return self.values[key.lower()]
        if default is None:
            _refuse(self.path, "missing-field", "lacks a field of its header", keys[0])
        return default

    def parsed(self, parse: Callable[[str], T], *keys: str, default: str | None = None) -> T:
        """`text`, understood."""
        value = self.text(*keys, default=default)
        try:
            return parse(value)
        except ValueError:
            _refuse(self.path, "bad-field", f"states {value[:60]!r}", keys[0])


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split())


def _floats(text: str) -> np.ndarray:
    return np.array([float(part) for part in text.split()])


def _vectors(text: str) -> np.ndarray:
    # "(1.5,0,0) (0,1.25,0) (0,0,2)"
    parts = text.replace(" ", "").strip("()").split(")(")
    return np.array([[float(number) for number in part.split(",")] for part in parts])


def _nrrd(fields: _Fields) -> ItkHeader:
    path = fields.path
    if fields.parsed(int, "dimension") != 3:
        _refuse(path, "dimension", f"has {fields.text('dimension')} dimensions", "dimension")
    shape = fields.parsed(_ints, "sizes")
    space = fields.text("space").lower()
    if space not in _TO_RAS:
        _refuse(path, "space", f"is placed in the space {space!r}, which is not the patient's", "space")
    units = fields.text("space units", default='"mm" "mm" "mm"')
    if set(units.replace('"', "").split()) != {"mm"}:
        _refuse(path, "units", f"states lengths in {units}", "space units")
    axes = fields.parsed(_vectors, "space directions").T
    origin = fields.parsed(_vectors, "space origin").ravel()
    if axes.shape != (3, 3) or origin.shape != (3,):
        _refuse(path, "bad-field", "does not place three axes in space", "space directions")
    _check_data_file(path, fields.text("data file", "datafile", default="LOCAL"), "data file")
    _check_size(fields, shape, fields.text("type"), packed=fields.text("encoding").lower() != "raw")
    return ItkHeader(path, _grid(path, shape, axes, origin, _TO_RAS[space]), "NrrdImageIO")


def _meta_image(fields: _Fields) -> ItkHeader:
    path = fields.path
    dimensions = fields.parsed(int, "NDims")
    if dimensions not in (2, 3):
        _refuse(path, "dimension", f"has {dimensions} dimensions", "NDims")
    if fields.parsed(int, "ElementNumberOfChannels", default="1") != 1:
        _refuse(path, "channels", "has several values a voxel", "ElementNumberOfChannels")
    if fields.text("DistanceUnits", default="mm").lower() not in ("mm", "?"):
        _refuse(path, "units", f"states lengths in {fields.text('DistanceUnits')}", "DistanceUnits")
    shape = fields.parsed(_ints, "DimSize")
    spacing = fields.parsed(_floats, "ElementSpacing", "ElementSize")
    matrix = fields.parsed(_floats, "TransformMatrix", "Orientation", "Rotation")
    offset = fields.parsed(_floats, "Offset", "Position", "Origin")
    if not (len(shape) == len(spacing) == len(offset) == dimensions and len(matrix) == dimensions**2):
        _refuse(path, "bad-field", "does not place its axes in space", "TransformMatrix")
    axes, origin = np.eye(3), np.zeros(3)
    axes[:dimensions, :dimensions] = matrix.reshape(dimensions, dimensions).T * spacing
    origin[:dimensions] = offset
    _check_data_file(path, fields.text("ElementDataFile"), "ElementDataFile")
    packed = fields.text("CompressedData", default="False").lower() == "true"
    _check_size(fields, shape, fields.text("ElementType"), packed=packed)
    notes = ("A single slice of unknown thickness was taken to be 1 mm thick.",) if dimensions == 2 else ()
    shape = (*shape, 1)[:3]
    return ItkHeader(path, _grid(path, shape, axes, origin, (-1, -1, 1)), "MetaImageIO", notes)


def _check_data_file(path: Path, name: str, tag: str) -> None:
    if name.upper() == "LOCAL":
        return
    if name.upper().startswith("LIST") or "%" in name or Path(name).name != name or "\\" in name:
        _refuse(path, "data-file", f"keeps its voxels in {name!r}", tag)
    if not (path.parent / name).is_file():
        _refuse(path, "data-file", f"keeps its voxels in {name!r}, which is missing", tag)


def _check_size(fields: _Fields, shape: tuple[int, ...], kind: str, *, packed: bool) -> None:
    stated = f"states a size of {' x '.join(map(str, shape))} voxels"
    if not all(1 <= n <= MAX_AXIS for n in shape) or np.prod(shape, dtype=float) > MAX_VOXELS:
        _refuse(fields.path, "size", stated, "DimSize, sizes")
    if kind.lower() not in _BYTES:
        _refuse(fields.path, "datatype", f"holds voxels of the type {kind!r}", "ElementType, type")
    data_file = fields.text("ElementDataFile", "data file", "datafile", default="LOCAL")
    data = fields.path if data_file.upper() == "LOCAL" else fields.path.parent / data_file
    held, needed = data.stat().st_size, int(np.prod(shape)) * _BYTES[kind.lower()]
    if packed and needed > max(BOMB_SIZE, BOMB_RATIO * held):
        _refuse(fields.path, "bomb", f"would grow from {held} bytes to {needed}", "DimSize, sizes")
    if not packed and held < needed:
        _refuse(fields.path, "damaged", f"has {held} of the {needed} bytes that its voxels need")


def _grid(
    path: Path, shape: tuple[int, ...], axes: np.ndarray, origin: np.ndarray, to_ras: tuple[int, int, int]
) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(to_ras)[:, None]
    affine[:3, 3] = origin * to_ras
    if not np.abs(affine).max() < BELIEVABLE_POSITION:  # false for NaN as well
        _refuse(path, "affine", "places its voxels out of all measure")
    lengths = np.linalg.norm(axes, axis=0)
    if lengths.min() < 1e-6 or abs(np.linalg.det(axes / lengths)) < 1e-3:
        _refuse(path, "affine", "has axes that flatten the image")
    x, y, z = shape
    return Grid((x, y, z), affine)
