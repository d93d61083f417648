"""Writing results as NIfTI, on the source's own grid and header, and either completely or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.errors import DISK_FULL, MedvitError
from medvit.studies.nifti_header import NiftiHeader, is_sheared, read_header
from medvit.studies.study import Grid, LoadedStudy

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

GZIP_LEVEL = 1  # at level 6 a label map is 40 % smaller, in four times the time
SLICES_AT_ONCE = 16


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A path to write to that becomes `path` if the block succeeds, and otherwise leaves nothing behind.

    The file is written beside its destination, synced and renamed, so that a file with the final name is
    complete, even after a crash or a power cut. Its suffixes are those of `path`.

    Raises
    ------
    MedvitError
        If the disk is full.
    """
    path = Path(path)
    _make_folder(path.parent)
    partial = path.with_name(f".partial-{secrets.token_hex(6)}{''.join(path.suffixes[-2:])}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise MedvitError(
                f"{path} cannot be written: {error.strerror}; free space, then resume"
            ) from error
        raise
    sync(path.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it so that they, too, survive a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as JSON, completely or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_join(folder: Path | str, *names: str) -> Path:
    """The path `names` below `folder`; whatever would lead out of it is refused, symbolic links included.

    Raises
    ------
    MedvitError
        If the path is not below `folder`.
    """
    root = Path(folder).resolve()
    path = root.joinpath(*names).resolve()
    if root != path and root not in path.parents:
        raise MedvitError(f"{'/'.join(names)!r} leads out of the output folder")
    return path


def safe_name(text: str) -> str:
    """`text` as the name of a file or folder that every file system accepts."""
    name = re.sub(r"[^\w.+-]+", "_", text).strip("._ ")
    # File systems count bytes: 120 letters of some scripts would be too many.
    return name.encode()[:120].decode(errors="ignore").rstrip("._") or "study"


def write_label_map(
    path: Path | str,
    labels: np.ndarray,
    source: LoadedStudy | NiftiHeader | Grid,
    names: Mapping[int, str] | None = None,
) -> Path:
    """Write a label map on the grid, and with the geometry fields, of the image from which it was made.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``. The names of the labels go to a ``.json`` of the same stem beside it.
    labels
        (X, Y, Z) of any integer type, 0 to 65535; stored as uint8 where that holds them, else as uint16.
    source
        The study, or the header or grid of its image. A 2D image yields a 2D label map; for formats other
        than NIfTI, a 3D one is written with the affine of the grid.
    names
        Label value to name.

    Raises
    ------
    MedvitError
        If `labels` is not a label map, or not on the grid of `source`.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iub":
        raise MedvitError(f"a label map holds integers, not {labels.dtype}")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > 65535:
        raise MedvitError(f"a label map holds values from 0 to 65535, not {low} to {high}")
    path = Path(path)
    _write(path, labels.astype(np.uint8 if high < 256 else np.uint16), source)
    if names is not None:
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        write_json(path.with_name(f"{stem}.json"), {"labels": {str(value): names[value] for value in names}})
    return path


def write_image(path: Path | str, image: np.ndarray, source: LoadedStudy | NiftiHeader | Grid) -> Path:
    """Write an image, such as a restoration, as float32 on the grid of the one from which it was made.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``.
    image
        (X, Y, Z), finite.
    source
        As in `write_label_map`.

    Raises
    ------
    MedvitError
        If `image` is not finite, or not on the grid of `source`.
    """
    image = np.asarray(image, np.float32)
    if not np.isfinite(image).all():
        raise MedvitError(f"{path}: the image to write has NaN or infinite voxels")
    _write(Path(path), image, source)
    return Path(path)


def _write(path: Path, array: np.ndarray, source: LoadedStudy | NiftiHeader | Grid) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise MedvitError(f"{path}: results are written as .nii or .nii.gz")
    template, grid = _template(source)
    if array.shape != grid.shape:
        raise MedvitError(f"a result of {array.shape} voxels does not fit the source's grid of {grid.shape}")
    header = _header(template, grid, array.dtype)
    with atomic_path(path) as partial, partial.open("wb") as file:
        if path.suffix == ".gz":
            # No name and no time inside, so that equal results are equal files.
            with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as stream:
                _stream(stream, header, array)
        else:
            _stream(file, header, array)


def _template(source: LoadedStudy | NiftiHeader | Grid) -> tuple[NiftiHeader | None, Grid]:
    if isinstance(source, Grid):
        return None, source
    if isinstance(source, NiftiHeader):
        return source, source.grid
    series = source.series[0]
    template = read_header(series.paths[0]) if series.format == "nifti" else None
    if template is not None and not template.grid.matches(source.grid):
        raise MedvitError(f"{template.path} has changed since it was read; run the study again")
    return template, source.grid


def _header(template: NiftiHeader | None, grid: Grid, dtype: np.dtype) -> Nifti1Header:
    import nibabel

    if template is None:
        header = nibabel.Nifti1Header()
        header.set_data_shape(grid.shape)
        header.set_xyzt_units("mm")
        # A qform cannot express a sheared grid, so it must not claim to.
        header.set_sform(grid.affine, code="scanner")
        header.set_qform(grid.affine, code="unknown" if is_sheared(grid.affine) else "scanner")
    else:
        kind = nibabel.Nifti1Header if len(template.raw) == 348 else nibabel.Nifti2Header
        header = kind(template.raw, check=False)
        header["magic"] = header.single_magic  # also where the source is a pair
        if template.volumes > 1:
            header.set_data_shape(grid.shape)
        for text in {"descrip", "aux_file", "db_name", "intent_name"} & set(header.keys()):
            header[text] = b""  # some converters put the patient's name here
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"] = 0
    header["vox_offset"] = header.single_vox_offset
    return header


def _stream(file: Any, header: Any, array: np.ndarray) -> None:
    header.write_to(file)
    slices = array.astype(header.get_data_dtype(), copy=False)
    for first in range(0, array.shape[2], SLICES_AT_ONCE):
        file.write(slices[:, :, first : first + SLICES_AT_ONCE].tobytes(order="F"))


def sync(path: Path) -> None:
    """Make a file or folder survive a power cut; only POSIX systems can do so if it is open for reading."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
