"""From files to series: which DICOM images belong together, by their headers alone."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvit.errors import StudyError
from medvit.studies.dicom.archive import files_of_dicomdir
from medvit.studies.dicom.grouping import Incomplete, SeriesVolume, aside, facing, remaining, volumes
from medvit.studies.dicom.headers import Header, NotDicomError, read_header, series_uid_of_damaged
from medvit.studies.dicom.notes import remarks
from medvit.studies.dicom.planes import Plane
from medvit.studies.dicom.suv import units
from medvit.studies.study import Series

_TEXTS = {
    "series_description": "SeriesDescription",
    "study_description": "StudyDescription",
    "protocol": "ProtocolName",
    "study_date": "StudyDate",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "body_part": "BodyPartExamined",
    "kernel": "ConvolutionKernel",
    "sequence": "SequenceName",
    "scanning_sequence": "ScanningSequence",
    "photometric": "PhotometricInterpretation",
    "burned_in": "BurnedInAnnotation",
    "lossy": "LossyImageCompression",
}
_NUMBERS = {
    "series_number": "SeriesNumber",
    "slice_thickness": "SliceThickness",
    "kvp": "KVP",
    "echo_time": "EchoTime",
    "repetition_time": "RepetitionTime",
    "inversion_time": "InversionTime",
    "flip_angle": "FlipAngle",
    "field_strength": "MagneticFieldStrength",
}
_PATIENT = {
    "name": "PatientName",
    "id": "PatientID",
    "birth_date": "PatientBirthDate",
    "sex": "PatientSex",
    "age": "PatientAge",
    "weight": "PatientWeight",
    "accession_number": "AccessionNumber",
}


@dataclass(frozen=True)
class SkippedFiles:
    """A file that does not belong to any series, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class ScanResult:
    """Result of a scan.

    Parameters
    ----------
    series
        One for each volume; a series that `read` will refuse has the reason in ``facts["problem"]``.
    left_out
        Files that hold no image of a series, each with the reason.
    patients
        For each series what identifies its patient; kept apart, and out of `repr`.
    """

    series: list[Series]
    left_out: list[SkippedFiles]
    patients: list[dict[str, str]] = field(default_factory=list, repr=False)


def scan(paths: Iterable[Path]) -> ScanResult:
    """Sort files into series by their headers; no pixel is read.

    Parameters
    ----------
    paths
        Files of any kind; those that are not DICOM images are reported as left out. A DICOMDIR stands for the
        files that it names.

    Returns
    -------
    ScanResult
        The series do not depend on names or order of the files. A damaged file whose series is unknown
        belongs to every series in its folder, so that none of them is read without it; so does a file that is
        not DICOM but named like the images around it.
    """
    headers: dict[tuple[str, ...], list[Header]] = {}
    damaged: list[tuple[Path, StudyError]] = []
    others: list[tuple[Path, str]] = []
    left_out: list[SkippedFiles] = []
    for path in _expanded(paths, damaged):
        try:
            header = read_header(path)
        except NotDicomError as error:
            others.append((path, str(error)))
        except StudyError as error:
            damaged.append((path, error))
        else:
            if why := _no_image(header):
                left_out.append(SkippedFiles(path, why))
            else:
                headers.setdefault(_key(header), []).append(header)
    found = _sorted_series(headers, left_out)
    left_out.extend(_add_posing(found, others))
    homeless = _add_damaged(found, damaged)
    _add_unnamed(found)
    series = [_refused([path], {}, error) for path, error in homeless]
    patients: list[dict[str, str]] = [{} for _ in homeless]
    for group in found:
        for one, patient in group.series(left_out):
            series.append(one)
            patients.append(patient)
    return ScanResult(series, left_out, patients)


def _expanded(paths: Iterable[Path], damaged: list[tuple[Path, StudyError]]) -> list[Path]:
    """The files in a fixed order, with those that a DICOMDIR names in its place."""
    files: set[Path] = set()
    for path in map(Path, paths):
        if path.name.upper() != "DICOMDIR":
            files.add(path)
            continue
        try:
            files.update(files_of_dicomdir(path))
        except StudyError as error:
            damaged.append((path, error))
    return sorted(files)


def _no_image(header: Header) -> str:
    """Why the file holds no image that could be part of a volume; ``""`` if it does."""
    if header.is_image:
        return ""
    return f"no image ({header.sop_class or header.text('Modality') or 'of unknown kind'})"


def _key(header: Header) -> tuple[str, ...]:
    uid = header.text("SeriesInstanceUID")
    if uid:
        return (uid,)
    # If de-identification removed the UID, equal folder and series number stand for one series, if they fit.
    return "", str(header.path.parent), header.text("SeriesNumber")


@dataclass
class _Group:
    """The files of one series, and what prevents reading them."""

    headers: list[Header]
    damaged: list[tuple[Path, StudyError]] = field(default_factory=list)

    @property
    def uid(self) -> str:
        return self.headers[0].text("SeriesInstanceUID")

    def series(self, left_out: list[SkippedFiles]) -> list[tuple[Series, dict[str, str]]]:
        patient = {k: v for k, tag in _PATIENT.items() if (v := self.headers[0].text(tag))}
        try:
            if self.damaged:
                raise self.damaged[0][1]
            found = volumes(self.headers)
        except StudyError as error:
            paths = [h.path for h in self.headers] + [path for path, _ in self.damaged]
            return [(_refused(paths, _facts(self.headers), error), patient)]
        used = {plane.header.path for one in found for plane in _planes(one)}
        left_out.extend(
            SkippedFiles(h.path, "a copy of another file") for h in self.headers if h.path not in used
        )
        return [(_as_series(one), patient) for one in found]


def _refused(paths: Sequence[Path], facts: dict[str, Any], error: StudyError) -> Series:
    facts = {**facts, "problem": str(error), "problem_code": error.code}
    return Series(tuple(sorted(set(paths))), "dicom", facts)


def _planes(found: SeriesVolume | Incomplete) -> tuple[Plane, ...]:
    return found.planes if isinstance(found, Incomplete) else found.stack.planes


def _as_series(volume: SeriesVolume | Incomplete) -> Series:
    planes = _planes(volume)
    headers = list({p.header.path: p.header for p in planes}.values())
    if isinstance(volume, Incomplete):
        facts = _facts(headers) | {"volume": volume.label}
        return _refused([h.path for h in headers], facts, volume.error)
    grid = volume.stack.grid
    facts = _facts(headers)
    facts |= {"shape": grid.shape, "spacing": tuple(round(s, 6) for s in grid.spacing)}
    facts |= {"plane": facing(planes[0].normal), "image_type": planes[0].kind, "volume": volume.label}
    facts |= {"tilted": volume.stack.tilted} if volume.stack.tilted else {}
    facts |= {"units": units(planes)[0], "notes": (*volume.stack.notes, *remarks(planes))}
    return Series(
        tuple(sorted(h.path for h in headers)), "dicom", {k: v for k, v in facts.items() if v not in ("", ())}
    )


def _facts(headers: Sequence[Header]) -> dict[str, Any]:
    first = headers[0]
    facts: dict[str, Any] = {"modality": first.text("Modality"), "image_type": first.image_type}
    facts |= {name: first.text(tag) for name, tag in _TEXTS.items()}
    for name, tag in _NUMBERS.items():
        try:
            facts[name] = first.number(tag)
        except StudyError:
            facts[name] = None  # a fact less, no danger: what places or scales voxels is checked elsewhere
    try:
        # Lines and columns of k-space; those that do not apply are 0.
        facts["acquisition_matrix"] = max(first.numbers("AcquisitionMatrix"), default=None)
    except StudyError:
        facts["acquisition_matrix"] = None
    facts["contrast"] = first.has("ContrastBolusAgent")
    # Identifiers only as digests: enough to distinguish series, studies and frames of reference.
    for name, tag in (
        ("series", "SeriesInstanceUID"),
        ("study", "StudyInstanceUID"),
        ("frame_of_reference", "FrameOfReferenceUID"),
    ):
        uid = first.text(tag)
        facts[name] = hashlib.sha256(uid.encode()).hexdigest()[:16] if uid else ""
    instances = sorted({header.text("SOPInstanceUID") for header in headers})
    facts["instances"] = (
        hashlib.sha256(" ".join(instances).encode()).hexdigest()[:16] if all(instances) else ""
    )
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _sorted_series(
    headers: dict[tuple[str, ...], list[Header]], left_out: list[SkippedFiles]
) -> list[_Group]:
    """One group for each series, without files that do not belong to its volumes."""
    groups = []
    for files in headers.values():
        beside = aside(files)
        left_out.extend(SkippedFiles(h.path, f"a {why}") for why, some in beside.items() for h in some)
        if rest := remaining(files, beside):
            groups.append(_Group(rest))
    return groups


def _add_posing(groups: list[_Group], others: list[tuple[Path, str]]) -> Iterator[SkippedFiles]:
    """Assign files that are not DICOM to the series whose files have similar names; others are left out."""
    named = [{(h.path.parent, _pattern(h.path)) for h in group.headers} for group in groups]
    for path, what in others:
        homes = [g for g, names in zip(groups, named, strict=True) if (path.parent, _pattern(path)) in names]
        for group in homes:
            said = f"{what}, but named like the images of a series"
            error = StudyError("dicom-damaged-file", said, path=path, do="replace or remove it")
            group.damaged.append((path, error))
        if not homes:
            yield SkippedFiles(path, what)


def _pattern(path: Path) -> str:
    """The name without counters and identifiers: numbers, and hexadecimal digits of hashes."""
    return re.sub(r"[0-9a-f]{8,}|[0-9]+", "#", path.name.lower())


def _add_unnamed(groups: list[_Group]) -> None:
    """Images that name no series prevent the reading of a series in whose folder they lie and may belong."""
    for unnamed in (g for g in groups if not g.uid):
        for group in (g for g in groups if g.uid):
            for header in unnamed.headers:
                if _might_belong(header, group.headers):
                    what = "an image that names no series lies among those of a series"
                    error = header.fault("dicom-unnamed-image", what, "SeriesInstanceUID", "take it away")
                    group.damaged.append((header.path, error))


def _might_belong(header: Header, headers: Sequence[Header]) -> bool:
    if all(header.path.parent != h.path.parent for h in headers):
        return False
    return all(header.text(k) in ("", headers[0].text(k)) for k in ("Modality", "Rows", "Columns"))


def _add_damaged(
    groups: list[_Group], damaged: list[tuple[Path, StudyError]]
) -> list[tuple[Path, StudyError]]:
    """Assign each damaged file to its series or, if that is unknown, to each series that it may belong to.

    Those that can belong to none are returned.
    """
    homeless = []
    for path, error in damaged:
        uid = series_uid_of_damaged(path)
        homes = [g for g in groups if (g.uid == uid if uid else _lies_among(path, g.headers))]
        if not homes:
            homeless.append((path, error))
        for group in homes:
            group.damaged.append((path, error))
    return homeless


def _lies_among(path: Path, headers: Sequence[Header]) -> bool:
    """Whether a file is in a folder of the series, or below the folder that holds all of them."""
    folders = {header.path.parent for header in headers}
    if path.parent in folders:
        return True
    return len(folders) > 1 and Path(os.path.commonpath(folders)) in path.parents
