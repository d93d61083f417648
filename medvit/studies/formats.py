"""Reading a study: from its files to one image tensor in RAS millimetres, with the source grid kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medvit.errors import StudyError
from medvit.studies.study import Grid, Series, Study

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from medvit.studies.dicom.reader import Tilt

Voxels = tuple[np.ndarray, Grid, tuple[str, ...]]


def read_study(
    study: Study,
    *,
    resample: bool = False,
    non_finite: float | None = None,
    tilt: Tilt = "refuse",
    isolate: bool = True,
) -> Study:
    """`study` with its image read.

    Parameters
    ----------
    study
        As `find_studies` gives it.
    resample
        Bring channels that lie on other grids onto the grid of the first (linear); refused otherwise.
    non_finite
        What to put in place of NaN and infinite voxels, which are refused otherwise.
    tilt
        What to do with a tilted gantry (DICOM): ``"refuse"`` it, ``"resample"`` it onto an upright grid, or
        ``"keep"`` its sheared affine.
    isolate
        Decode DICOM where a crash or a hang of a decoder cannot take this process along.

    Returns
    -------
    study
        Its `image` is (C, X, Y, Z) float32 in the index order of the source, also where Z is 1; its affine
        maps voxel indices to RAS+ mm. Its `grid` is that of the source.

    Raises
    ------
    StudyError
        If a file cannot be read with one meaning, or the channels do not lie on one grid.
    """
    notes: list[str] = []
    image, grid = None, None
    for channel, series in enumerate(study.series):
        array, own_grid, said = _read(series, non_finite=non_finite, tilt=tilt, isolate=isolate)
        notes += [note for note in said if note not in notes]
        if image is None or grid is None:
            grid = own_grid
            image = (
                array[None] if len(study.series) == 1 else np.empty((len(study.series), *grid.shape), "f4")
            )
        elif not grid.matches(own_grid):
            array = _onto(grid, array, own_grid, series, resample)
            notes.append(f"Channel {channel} was resampled onto the grid of channel 0.")
        if len(study.series) > 1:
            image[channel] = array
    if image is None or grid is None:
        raise StudyError("no-series", f"study {study.id} has no images")
    return study.with_image(_meta_tensor(image, grid, study.id), grid, *notes)


def _read(series: Series, *, non_finite: float | None, tilt: Tilt, isolate: bool) -> Voxels:
    if series.format == "nifti":
        from medvit.studies import nifti

        header = nifti.read_header(series.paths[0])
        array, notes = nifti.read_image(header, series.facts.get("volume"), non_finite=non_finite)
        return array, header.grid, header.notes + notes
    if series.format == "itk":
        from medvit.studies import itk_text

        return itk_text.read_image(series.paths[0], non_finite=non_finite)
    from medvit.studies import dicom

    array, grid, notes = dicom.read(series, tilt=tilt, isolate=isolate)
    return array, grid, tuple(notes)


def _onto(grid: Grid, array: np.ndarray, own_grid: Grid, series: Series, resample: bool) -> np.ndarray:
    if not resample:
        raise StudyError(
            "channels-grid",
            "does not lie on the same voxel grid as the study's first channel",
            path=series.paths[0],
            do="register and resample the channels, or ask for them to be resampled",
        )
    from scipy.ndimage import affine_transform

    to_own = np.linalg.inv(own_grid.affine) @ grid.affine
    # "grid-constant" fades out over one voxel, where "constant" would cut the border voxels off by rounding.
    return affine_transform(
        array, to_own, output_shape=grid.shape, order=1, mode="grid-constant", cval=float(array.min())
    )


def _meta_tensor(image: np.ndarray, grid: Grid, study_id: str) -> MetaTensor:
    import torch
    from monai.data import MetaTensor

    affine = torch.from_numpy(np.array(grid.affine, np.float64))
    meta = {
        "original_affine": affine.clone(),
        "spatial_shape": np.array(grid.shape),
        "space": "RAS",
        "original_channel_dim": 0,
        # What MONAI names outputs by; the path itself might carry a patient's name.
        "filename_or_obj": study_id,
    }
    return MetaTensor(torch.from_numpy(image), affine=affine, meta=meta)


def without_image(study: Study) -> Study:
    """`study` with its image let go, its grid and notes kept: what goes beside the tensor in a chain."""
    return replace(study, image=None)
