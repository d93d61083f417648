"""Image formats: the format of a file, and its header or voxels by the reader of that format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medvit.errors import StudyError
from medvit.studies.dicom.sniff import starts_as_dicom
from medvit.studies.grids import resample_onto
from medvit.studies.study import Grid, LabelMap, LoadedStudy, Series, Study

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from medvit.studies.dicom.reader import Tilt

Voxels = tuple[np.ndarray, Grid, tuple[str, ...]]

# Suffixes of image files; ".hdr" and ".vtk" count only if the first bytes agree.
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "nifti": (".nii.gz", ".nii"),
    "itk": (".nrrd", ".nhdr", ".mha", ".mhd"),
    "freesurfer": (".mgz", ".mgh"),
    "analyze": (".hdr",),
    "other": (".gipl.gz", ".gipl", ".vtk", ".mrc", ".mnc"),
    "dicom": (".dcm", ".dicom", ".ima"),
}
IMAGE_SUFFIXES = tuple(s for name, suffixes in SUFFIXES.items() if name != "dicom" for s in suffixes)
READABLE = "NIfTI, DICOM, NRRD, MetaImage, Analyze or FreeSurfer"
_BRUKER = "2dseq"  # the whole name of Bruker's files of voxels


@dataclass(frozen=True)
class ImageHeader:
    """The facts in the header of an image of any format.

    Parameters
    ----------
    grid
        Grid of one volume, in RAS+ mm.
    volumes
        Number of volumes on it.
    notes
        Decisions that the user should know.
    files
        Every file from which header and voxels are read.
    """

    grid: Grid
    volumes: int
    notes: tuple[str, ...]
    files: tuple[Path, ...]


def format_of(path: Path) -> str:
    """The format of a file, one of `SUFFIXES`, by its name or first bytes; empty if it has none."""
    name = path.name.lower()
    if name == "dicomdir":
        return "dicom"
    if name == _BRUKER:
        return "other"
    named = next((kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes)), "")
    try:
        if named == "analyze":
            return _kind_of_pair(path)
        if name.endswith(".vtk"):  # most are meshes
            return named if b"STRUCTURED_POINTS" in _start(path, 1024).upper() else ""
        return named or ("dicom" if starts_as_dicom(path) else "")
    except OSError:
        return named


def voxels_of(path: Path) -> Path | None:
    """The header beside a file of voxels alone (``.img``); ``None`` for all other files."""
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith(".img"):
        return None
    header = path.with_name(path.name[: len(name) - 4] + ".hdr")
    return header if header.is_file() else None


def series_at(path: Path, volume: int | None = None) -> Series:
    """The file, or the DICOM series whose files fill a folder, as one channel of a study.

    Parameters
    ----------
    volume
        Index of the volume in a file that holds several.

    Raises
    ------
    StudyError
        If the file is not an image.
    """
    path = voxels_of(path) or path
    if path.is_dir():
        return Series(tuple(sorted(file for file in path.rglob("*") if file.is_file())), "dicom")
    if not (kind := format_of(path)):
        raise StudyError("unknown-format", "is not an image", path=path, do=f"give {READABLE}")
    return Series((path,), kind, {} if volume is None else {"volume": volume})


def read_header(series: Series) -> ImageHeader:
    """The facts in the header of a series; no voxel is read.

    Raises
    ------
    StudyError
        If the header has several meanings, or none.
    """
    path = series.paths[0]
    if series.format == "nifti":
        from medvit.studies import nifti_header

        nifti = nifti_header.read_header(path)
        return ImageHeader(nifti.grid, nifti.volumes, nifti.notes, tuple(dict.fromkeys((path, nifti.data))))
    if series.format == "itk":
        from medvit.studies import itk_text

        text = itk_text.read_header(path)
        return ImageHeader(text.grid, 1, text.notes, tuple(dict.fromkeys((path, text.data))))
    if series.format in ("analyze", "freesurfer"):
        from medvit.studies import nibabel_formats

        return ImageHeader(*nibabel_formats.read_header(path), nibabel_formats.files_of(path))
    if series.format == "other":
        from medvit.studies import itk_formats

        grid, notes = itk_formats.read_header(path)
        return ImageHeader(grid, 1, notes, (path,))
    from medvit.studies.dicom.reader import plan

    volume, notes = plan(series.paths, str(series.facts.get("volume", "")))
    return ImageHeader(volume.stack.grid, 1, notes, series.paths)


def read_voxels(
    series: Series, *, non_finite: float | None = None, tilt: Tilt = "refuse", isolate: bool = True
) -> Voxels:
    """The voxels of one series.

    Parameters
    ----------
    series
        ``facts["volume"]`` selects one of several volumes.
    non_finite, tilt, isolate
        Same as in `read_study`.

    Returns
    -------
    array
        (X, Y, Z) float32 in the index order of the source, scaled as the header says.
    grid
        Grid of the voxels in RAS+ mm.
    notes
        Decisions that the user should know.

    Raises
    ------
    StudyError
        If it cannot be read with one meaning.
    """
    path = series.paths[0]
    if series.format == "nifti":
        from medvit.studies import nifti

        header = nifti.read_header(path)
        array, notes = nifti.read_image(header, series.facts.get("volume"), non_finite=non_finite)
        return array, header.grid, header.notes + notes
    if series.format == "itk":
        from medvit.studies import itk_text

        return itk_text.read_image(path, non_finite=non_finite)
    if series.format in ("analyze", "freesurfer"):
        from medvit.studies import nibabel_formats

        grid = check_single(series).grid
        array, notes = nibabel_formats.read_image(path, series.facts.get("volume"), non_finite)
        return array, grid, notes
    if series.format == "other":
        from medvit.studies import itk_formats

        return itk_formats.read_image(path, non_finite)
    from medvit.studies import dicom

    array, grid, notes = dicom.read(series, tilt=tilt, isolate=isolate)
    return array, grid, tuple(notes)


def check_single(series: Series) -> ImageHeader:
    """The header of a series, which is refused if it holds several volumes and none was selected.

    Raises
    ------
    StudyError
        Under the same conditions as `read_header`.
    """
    header = read_header(series)
    if header.volumes > 1 and "volume" not in series.facts:
        what = f"holds {header.volumes} volumes where one is expected"
        do = "extract the volume to work on into a file of its own"
        raise StudyError("nifti-4d", what, path=series.paths[0], tag="dim", do=do)
    return header


def read_label_map(path: Path) -> LabelMap:
    """A label map from a file of any format but DICOM segmentations (`medvit.studies.dicom.seg`).

    Raises
    ------
    StudyError
        If the file cannot be read, or has other values than whole numbers from 0 to 65535.
    """
    values, grid, _ = read_voxels(series_at(path))
    with np.errstate(invalid="ignore"):
        labels = values.clip(0, 65535).astype(np.uint16)
    if not np.array_equal(labels, values):
        what = "is not a label map: it holds values other than whole numbers from 0 to 65535"
        do = "give the label map itself; if it was resampled, use the nearest neighbour"
        raise StudyError("not-a-label-map", what, path=path, do=do)
    return LabelMap(labels, grid)


def read_study(
    study: Study,
    *,
    resample: bool = False,
    non_finite: float | None = None,
    tilt: Tilt = "refuse",
    isolate: bool = True,
) -> LoadedStudy:
    """`study` with its image.

    Parameters
    ----------
    study
        Study that `find_studies` found.
    resample
        Resample channels on other grids linearly onto the grid of the first; refused otherwise.
    non_finite
        Value that replaces NaN and infinite voxels, which are refused otherwise.
    tilt
        Treatment of a tilted gantry (DICOM): ``"refuse"`` it, ``"resample"`` it onto an upright grid, or
        ``"keep"`` its sheared affine.
    isolate
        Decode DICOM in a separate process, so that a crash or hang of a decoder does not affect this one.

    Returns
    -------
    study
        The study; its Z is 1 for a 2D image.

    Raises
    ------
    StudyError
        If a file cannot be read with one meaning, or the channels do not lie on one grid.
    """
    notes: list[str] = []
    image, grid = None, None
    for channel, series in enumerate(study.series):
        array, own_grid, said = read_voxels(series, non_finite=non_finite, tilt=tilt, isolate=isolate)
        notes += [note for note in said if note not in notes]
        if image is None or grid is None:
            grid = own_grid
            image = (
                array[None] if len(study.series) == 1 else np.empty((len(study.series), *grid.shape), "f4")
            )
        elif not grid.matches(own_grid):
            if not resample:
                what = "does not lie on the same voxel grid as the study's first channel"
                do = "register and resample the channels, or allow them to be resampled"
                raise StudyError("channels-grid", what, path=series.paths[0], do=do)
            array = resample_onto(grid, array, own_grid, outside=float(array.min()))
            notes.append(f"Channel {channel} was resampled onto the grid of channel 0.")
        if len(study.series) > 1:
            image[channel] = array
    if image is None or grid is None:
        raise StudyError("no-series", f"study {study.id} has no images")
    return LoadedStudy.of(study, meta_tensor(image, grid, study.id), grid, *notes)


def meta_tensor(image: np.ndarray, grid: Grid, study_id: str) -> MetaTensor:
    """The image of a study, (C, X, Y, Z) on `grid`, as MONAI's transforms and our inferers take it."""
    import torch
    from monai.data import MetaTensor

    affine = torch.from_numpy(np.array(grid.affine, np.float64))
    meta = {
        "original_affine": affine.clone(),
        "spatial_shape": np.array(grid.shape),
        "space": "RAS",
        "original_channel_dim": 0,
        # MONAI names outputs after this; the path itself might contain a patient's name.
        "filename_or_obj": study_id,
    }
    return MetaTensor(torch.from_numpy(image), affine=affine, meta=meta)


def _start(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _kind_of_pair(path: Path) -> str:
    """The format of a ``.hdr``: half of a NIfTI or Analyze pair, or not a medical image (ENVI, Radiance)."""
    start = _start(path, 348)
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    if 540 in sizes or (348 in sizes and start[344:347] == b"ni1"):
        return "nifti"
    return "analyze" if 348 in sizes else ""
