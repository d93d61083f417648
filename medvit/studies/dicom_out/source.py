"""The DICOM images to which results refer: their headers, and the place of each frame in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM

from medvit.errors import StudyError
from medvit.studies.study import Grid, Study

# Voxels of result and source count as the same if they are closer than this share of a voxel.
_TOLERANCE = 0.2

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_NO_UID = "the source has no {}, so results could not be stored with it"
_FETCH_AGAIN = "fetch the series from its archive again, or write NIfTI"

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Patient and Study modules, PS3.3 C.7.1.1 and C.7.2.1: of type 2, so they may be empty but must be present.
_TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
           "StudyDate", "StudyTime", "ReferringPhysicianName")  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One plane of pixels of the source.

    Parameters
    ----------
    image
        The header of its image.
    number
        From 1 in a multi-frame image, ``None`` in a single-frame one.
    shape
        Columns, rows.
    affine
        4x4, (column, row, 0) to RAS+ mm; ``None`` where the image has no place in a patient (a radiograph).
    """

    image: Dataset
    number: int | None
    shape: tuple[int, int]
    affine: np.ndarray | None


@dataclass(frozen=True)
class SourceSeries:
    """One series of images: headers without pixels, sufficient to derive other objects.

    Parameters
    ----------
    images
        Headers; one for each file.
    frames
        The planes of all images.
    path
        The first file, by which messages name the series.
    """

    images: tuple[Dataset, ...]
    frames: tuple[Frame, ...]
    path: Path | None = None

    @property
    def first(self) -> Dataset:
        """The header that stands for the common attributes of the series."""
        return self.images[0]

    def frames_of(self, grid: Grid) -> list[Frame]:
        """The source frame that each slice (third axis) of `grid` lies on, found by position.

        Raises
        ------
        StudyError
            If a slice lies on no frame of the source, or on more than one.
        """
        if len(self.frames) == 1 and self.frames[0].affine is None:
            if grid.shape != (*self.frames[0].shape, 1):
                raise self._misplaced(f"has {self.frames[0].shape} pixels and the result {grid.shape} voxels")
            return [self.frames[0]]
        placed = [f for f in self.frames if f.affine is not None and f.shape == grid.shape[:2]]
        if not placed:
            raise self._misplaced(f"has no image of {grid.shape[0]} x {grid.shape[1]} pixels with a position")
        corners = np.stack([_corners(f.affine, f.shape) for f in placed if f.affine is not None])
        found = []
        for k in range(grid.shape[2]):
            distance = np.linalg.norm(corners - _corners(_slice_affine(grid, k), grid.shape[:2]), axis=-1)
            here = np.flatnonzero(distance.max(axis=1) < _TOLERANCE * min(grid.spacing))
            if len(here) != 1:
                count = "no image" if len(here) == 0 else f"{len(here)} images"
                raise self._misplaced(f"has {count} at slice {k} of the result")
            found.append(placed[here[0]])
        return found

    def _misplaced(self, what: str) -> StudyError:
        return StudyError(
            "dicom-out-other-grid",
            f"the source series {what}",
            path=self.path,
            do="bring the result to the grid of this series first, or write NIfTI",
        )


def can_write_dicom(study: Study) -> str:
    """Why DICOM results of a study cannot be written, as a clause; empty if they can.

    Cheap enough to ask before inference, since only headers are read. Results refer to the first series.
    """
    series = study.series[0]
    if series.format != "dicom":
        return "the study did not come as DICOM"
    if "MOSAIC" in series.facts.get("image_type", ()):
        return "the slices of a Siemens mosaic are not separate images, so results cannot refer to them"
    try:
        read_source(series.paths)
    except StudyError as error:
        return error.what
    return ""


def read_source(files: Sequence[Path | str | Dataset]) -> SourceSeries:
    """Read the headers of one series (paths, or datasets already read, which are not changed).

    Missing attributes of the Patient and Study modules become empty; text becomes UTF-8.

    Raises
    ------
    StudyError
        If a file is not DICOM, there is none, the files belong to more than one series, or a UID of study,
        series or instance is missing.
    """
    images = [_read_header(f) for f in files]
    path = next((Path(f) for f in files if not isinstance(f, Dataset)), None)
    if not images:
        raise StudyError(
            "dicom-out-no-source", "no DICOM source was given", do="pass the files of the series"
        )
    if len({(i.get("StudyInstanceUID"), i.get("SeriesInstanceUID")) for i in images}) > 1:
        raise StudyError(
            "dicom-out-many-series",
            "the files belong to more than one series",
            path=path,
            do="pass one series",
        )
    _check_uids(images, path)
    images = list({i.SOPInstanceUID: i for i in images}.values())
    for image in images:
        _complete(image)
    if len(images) > 1 and any("NumberOfFrames" in i and i.NumberOfFrames > 1 for i in images):
        raise StudyError(
            "dicom-out-many-multiframe",
            f"the series has {len(images)} multi-frame files",
            path=path,
            do="pass the one file that the result was made from",
        )
    return SourceSeries(tuple(images), tuple(f for i in images for f in _frames(i)), path)


def _read_header(file: Path | str | Dataset) -> Dataset:
    if isinstance(file, Dataset):
        header = deepcopy(Dataset({e.tag: e for e in file if e.keyword != "PixelData"}))
    else:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        except (InvalidDicomError, EOFError, OSError) as error:
            raise StudyError("dicom-unreadable", f"cannot be read ({error})", path=file) from error
    # Some de-identified files have these two only in their file meta information.
    meta = getattr(file if isinstance(file, Dataset) else header, "file_meta", Dataset())
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if not header.get(keyword):
            setattr(header, keyword, meta.get(f"MediaStorage{keyword}", ""))
    if not header.SOPClassUID:
        where = None if isinstance(file, Dataset) else file
        raise StudyError(
            "dicom-no-sop-class", "is not a DICOM image", path=where, tag="SOPClassUID (0008,0016)"
        )
    return header


def _check_uids(images: list[Dataset], path: Path | None) -> None:
    """Refuse a source with which results could not be stored: no archive has UIDs that we invent."""
    for image in images:
        for keyword in _UIDS:
            if not image.get(keyword):
                raise StudyError("dicom-out-no-uid", _NO_UID.format(keyword), path=path, do=_FETCH_AGAIN)


def _complete(image: Dataset) -> None:
    image.decode()
    image.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _TYPE_2:
        if not image.get(keyword):
            setattr(image, keyword, "")
    # highdicom refuses values that the standard does not allow; a result without them is better than none.
    if image.PatientSex not in ("M", "F", "O"):
        image.PatientSex = ""
    for keyword, check in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            check(image[keyword].value)
        except ValueError:
            setattr(image, keyword, "")
    if not image.get("FrameOfReferenceUID") and any(f.affine is not None for f in _frames(image)):
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", image.SeriesInstanceUID])


def _frames(image: Dataset) -> list[Frame]:
    shape = (int(image.get("Columns", 0)), int(image.get("Rows", 0)))
    if "PerFrameFunctionalGroupsSequence" not in image:
        affine = _plane_affine(
            image.get("ImagePositionPatient"), image.get("ImageOrientationPatient"), image.get("PixelSpacing")
        )
        return [Frame(image, None, shape, affine)]
    shared = image.SharedFunctionalGroupsSequence[0]
    frames = []
    for number, own in enumerate(image.PerFrameFunctionalGroupsSequence, start=1):
        position, orientation, measures = (
            (own if sequence in own else shared).get(sequence, [Dataset()])[0]
            for sequence in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        )
        affine = _plane_affine(
            position.get("ImagePositionPatient"),
            orientation.get("ImageOrientationPatient"),
            measures.get("PixelSpacing"),
        )
        frames.append(Frame(image, number, shape, affine))
    return frames


def _plane_affine(
    position: Sequence[float] | None, orientation: Sequence[float] | None, spacing: Sequence[float] | None
) -> np.ndarray | None:
    """(column, row, 0) to RAS+ mm, after the equation of PS3.3 C.7.6.2.1.1."""
    if not position or not orientation or not spacing:
        return None
    along_row, along_column = np.asarray(orientation, float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0] = along_row * float(spacing[1])
    affine[:3, 1] = along_column * float(spacing[0])
    affine[:3, 2] = np.cross(along_row, along_column)
    affine[:3, 3] = np.asarray(position, float)
    return _RAS_FROM_LPS @ affine


def _slice_affine(grid: Grid, k: int) -> np.ndarray:
    affine = grid.affine.copy()
    affine[:, 3] = grid.affine @ [0, 0, k, 1]
    return affine


def _corners(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The four corner pixels in mm, (4, 3)."""
    columns, rows = shape[0] - 1, shape[1] - 1
    pixels = np.array([[0, 0, 0, 1], [columns, 0, 0, 1], [0, rows, 0, 1], [columns, rows, 0, 1]])
    return (pixels @ affine.T)[:, :3]
