"""De-identification of files: each passes the reader's checks, none is overwritten, and all are counted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset

from medvit.errors import MedvitError, StudyError
from medvit.studies.deidentification.attributes import deidentify
from medvit.studies.deidentification.profile import Profile
from medvit.studies.dicom.headers import NotDicomError, open_dataset, quiet, read_header
from medvit.studies.dicom_out.common import save_dicom

_LEVELS = ("StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Deidentified:
    """What `deidentify_folder` did.

    Parameters
    ----------
    files
        The files that were written.
    left_out
        Files that were read but not written, and why. These paths may name patients: show them only to those
        who have the originals, and never log them.
    """

    files: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...]


def deidentify_folder(source: Path, target: Path, profile: Profile | None = None) -> Deidentified:
    """De-identify every DICOM image below a folder; see `deidentify_files`.

    Raises
    ------
    MedvitError
        If there is no image that could be written, or `target` lies in `source`.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise MedvitError("the output folder lies in the folder to de-identify; choose another")
    files = sorted(p for p in source.rglob("*") if p.is_file())
    if not files:
        raise MedvitError(f"{source}: holds no files; give a folder of DICOM images")
    return deidentify_files(files, target, profile)


def deidentify_files(paths: Sequence[Path], target: Path, profile: Profile | None = None) -> Deidentified:
    """De-identify DICOM images, into one folder a study and series named by hashes.

    A file is written once: only the first of several copies, and only the first of different files with one
    SOPInstanceUID; the others are left out. Images without UIDs of study or series get UIDs derived from
    their patient and their folder.

    Raises
    ------
    MedvitError
        If there is no image that could be written.
    """
    profile = profile or Profile()
    written: dict[Path, Path] = {}
    left_out: list[tuple[Path, str]] = []
    for path in paths:
        try:
            result = _read(path, profile)
            destination = target.joinpath(*(_name(result.get(k, "")) for k in _LEVELS))
            destination /= f"{_name(result.SOPInstanceUID)}.dcm"
            if why := _why_not(path, destination, written):
                left_out.append((path, why))
                continue
            save_dicom(result, destination)
        except StudyError as error:
            left_out.append((path, error.what))
        except NotDicomError:
            left_out.append((path, "is not DICOM"))
        else:
            written[destination] = path
    if not written:
        raise MedvitError(f"none of the {len(left_out)} files is a DICOM image that can be de-identified")
    return Deidentified(tuple(written), tuple(left_out))


def _read(path: Path, profile: Profile) -> Dataset:
    """One image, de-identified.

    Raises
    ------
    NotDicomError, StudyError
        Under the same conditions as the reader and `deidentify`.
    """
    header = read_header(path)
    dataset, syntax = open_dataset(path)
    with quiet():
        if not hasattr(dataset, "file_meta") or not dataset.file_meta.get("TransferSyntaxUID"):
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = syntax
        try:
            result = deidentify(dataset, profile)
        except RecursionError:
            what = "its sequences are nested more deeply than in any image"
            raise StudyError("dicom-nested-too-deep", what, path=path) from None
        whose = [header.text(k) for k in ("PatientID", "PatientName", "PatientBirthDate", "StudyDate")]
        for keyword, more in (("StudyInstanceUID", ""), ("SeriesInstanceUID", header.text("Modality"))):
            if not result.get(keyword):
                place = str(path.parent.resolve())
                setattr(result, keyword, profile.uid_of(keyword, place, more, *whose))
    return result


def _why_not(path: Path, destination: Path, written: dict[Path, Path]) -> str:
    """Why an image may not be written to that place; empty if it may."""
    if destination in written:
        same = path.read_bytes() == written[destination].read_bytes()
        return f"is {'a copy of' if same else 'not the same as'} {written[destination].name}" + (
            "" if same else ", but states the same SOPInstanceUID"
        )
    return "was written by an earlier run, and is not written again" if destination.exists() else ""


def _name(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:16]
