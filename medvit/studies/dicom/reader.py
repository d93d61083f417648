"""Reading a DICOM series as a volume: every doubt leads to a refusal, every decision to a note."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medvit.errors import StudyError
from medvit.studies.dicom import isolated, tilt
from medvit.studies.dicom.grouping import SeriesVolume, aside, only_volume, remaining, volumes
from medvit.studies.dicom.headers import Header, NotDicomError, read_header
from medvit.studies.dicom.notes import remarks
from medvit.studies.dicom.pixels import decode
from medvit.studies.dicom.suv import units
from medvit.studies.study import Grid, Series

Tilt = Literal["refuse", "resample", "keep"]


def read(
    series: Series, *, tilt: Tilt = "refuse", isolate: bool = False, timeout: float | None = None
) -> tuple[np.ndarray, Grid, tuple[str, ...]]:
    """Read one series as a volume.

    Parameters
    ----------
    series
        From `scan`, or any DICOM files that form one volume. ``facts["volume"]`` selects one of several
        volumes.
    tilt
        Treatment of a stack acquired at a gantry tilt: ``"refuse"`` it, ``"resample"`` it to a right-angled
        grid, or ``"keep"`` the voxels with their sheared affine.
    isolate
        Decode in a separate process, so that a hostile or damaged file cannot crash, hang or bloat this one.
        Takes about half a second.
    timeout
        Seconds that an isolated read may take; by default one minute plus two seconds per file.

    Returns
    -------
    np.ndarray
        (X, Y, Z) float32: columns, rows, and planes in the order of their positions along the planes'
        normal (the cross product of the row and column directions). HU for CT, SUV by body weight for PET
        where the header allows, otherwise rescaled values. MONOCHROME1 values stay as stored.
    Grid
        Grid of the voxels in RAS+ millimetres.
    tuple of str
        Decisions of the reader, in sentences.

    Raises
    ------
    StudyError
        Whenever the volume could be wrong; names the file and the attribute.
    """
    if isolate:
        return isolated.read(series, tilt, 60.0 + 2.0 * len(series.paths) if timeout is None else timeout)
    volume, notes = plan(series.paths, str(series.facts.get("volume", "")))
    return read_planned(volume, notes, tilt)


def plan(paths: Sequence[Path], label: str = "") -> tuple[SeriesVolume, tuple[str, ...]]:
    """The volume that the files form, from their headers alone, and the decisions of the reader.

    Raises
    ------
    StudyError
        As `read`.
    """
    headers = [_header(path) for path in sorted(paths)]
    beside = aside(headers)
    images = remaining(headers, beside)
    if not images:
        raise StudyError("dicom-no-image", "there are only localizers", path=paths[0] if paths else None)
    if len({h.text("SeriesInstanceUID") for h in images if "SeriesInstanceUID" in h.dataset}) > 1:
        what = "the files are of more than one series"
        raise images[0].fault("dicom-mixed-series", what, "SeriesInstanceUID", "give the files of one series")
    volume = only_volume(volumes(images), label, images)
    dropped = tuple(f"Left out as a {why}: {len(some)}." for why, some in beside.items())
    return volume, dropped + volume.stack.notes + remarks(volume.stack.planes)


def _header(path: Path) -> Header:
    try:
        header = read_header(path)
    except NotDicomError as error:
        raise StudyError("dicom-no-image", str(error), path=path, do="take it away") from None
    if not header.is_image:
        raise header.fault("dicom-no-image", "the object holds no image", "SOPClassUID", "take it away")
    return header


def read_planned(
    volume: SeriesVolume, notes: tuple[str, ...], policy: Tilt
) -> tuple[np.ndarray, Grid, tuple[str, ...]]:
    """`read` for the volume that `plan` found."""
    stack = volume.stack
    first = stack.planes[0].header
    if stack.tilted and policy == "refuse":
        what = f"the slices were acquired at a tilt of {tilt.angle(stack):.1f} degrees"
        do = "allow resampling to a right-angled grid"
        raise first.fault("dicom-gantry-tilt", what, "ImagePositionPatient", do)
    (image, said), grid = decode(stack.planes), stack.grid
    notes += said
    name, factor = units(stack.planes)
    if factor != 1:
        image *= np.float32(factor)
        notes += (f"PET activity was turned into SUV by body weight (times {factor:.6g}).",)
    elif first.text("Modality") == "PT" and name != "SUVbw":
        notes += (f"PET values are in {name or 'unknown units'}: the header does not allow SUV.",)
    elif first.text("Modality") == "CT" and name != "HU":
        notes += (f"CT values are in {name or 'unknown units'}: the header does not say HU.",)
    if stack.tilted and policy == "resample":
        image, grid = tilt.upright(image, stack)
        notes += (f"A gantry tilt of {tilt.angle(stack):.1f} degrees was removed by resampling.",)
    return image, grid, notes
