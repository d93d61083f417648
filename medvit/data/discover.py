"""Finding studies: whatever a person points at becomes a list of studies, and what was left out is named."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvit.data import channels as naming
from medvit.data.manifest import Entry, read_manifest
from medvit.data.study import Series, Study
from medvit.data.write import safe_name
from medvit.errors import MedvitError, StudyError

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", ".zip")
MANIFEST_SUFFIXES = (".json", ".csv")


@dataclass(frozen=True)
class SeriesRules:
    """Which DICOM series a bundle works on; what is not stated is not asked.

    Parameters
    ----------
    modality
        Any of these, such as ``("MR",)``.
    image_type, not_image_type
        Values of ImageType (0008,0008) of which all, or none, must be there.
    description, not_description
        Regular expressions, letter case ignored, that SeriesDescription must, or must not, contain.
    contrast
        Whether a contrast agent must have been given.
    plane
        ``"axial"``, ``"coronal"`` or ``"sagittal"``.
    max_slice_thickness
        In mm.
    """

    modality: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    not_image_type: tuple[str, ...] = ()
    description: str = ""
    not_description: str = ""
    contrast: bool | None = None
    plane: str = ""
    max_slice_thickness: float | None = None

    def objection(self, facts: dict[str, Any]) -> str:
        """Why a series with these facts is not wanted; empty if it is."""
        types = {str(value).upper() for value in facts.get("image_type") or ()}
        described = str(facts.get("description") or "")
        thickness = facts.get("slice_thickness")
        objections = (
            (
                self.modality and facts.get("modality") not in self.modality,
                f"modality {facts.get('modality')}",
            ),
            (not {t.upper() for t in self.image_type} <= types, f"image type {'/'.join(sorted(types))}"),
            ({t.upper() for t in self.not_image_type} & types, f"image type {'/'.join(sorted(types))}"),
            (not re.search(self.description, described, re.I), f"description {described!r}"),
            (
                self.not_description and re.search(self.not_description, described, re.I),
                f"description {described!r}",
            ),
            (
                self.contrast is not None and bool(facts.get("contrast")) != self.contrast,
                "contrast agent given" if facts.get("contrast") else "no contrast agent given",
            ),
            (self.plane and facts.get("plane") != self.plane, f"plane {facts.get('plane')}"),
            (
                self.max_slice_thickness is not None
                and (thickness is None or float(thickness) > self.max_slice_thickness),
                f"slice thickness {thickness} mm",
            ),
        )
        return next((found for unwanted, found in objections if unwanted), "")


@dataclass(frozen=True)
class LeftOut:
    """A file or series that was seen and not taken, and why in one clause."""

    path: Path
    why: str


@dataclass(frozen=True)
class Refused:
    """A study that was found but cannot be worked on."""

    id: str
    error: StudyError


@dataclass(frozen=True)
class Found:
    """What `find_studies` found.

    Parameters
    ----------
    studies
        In a stable order, with ids that are unique and safe as names of folders.
    left_out
        What was seen and not taken, by choice.
    refused
        Studies that are incomplete or broken as far as their names and headers tell.
    """

    studies: tuple[Study, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    refused: tuple[Refused, ...] = ()


@dataclass
class _Haul:
    studies: list[Study] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def find_studies(
    input: str | Path | Sequence[str | Path],
    *,
    channels: int | Sequence[str] = 1,
    rules: SeriesRules | Sequence[SeriesRules] = SeriesRules(),
) -> Found:
    """The studies in a file, a folder, a glob, a manifest, a DICOM folder or zip, or in several of these.

    Parameters
    ----------
    input
        Folders are searched to the bottom. Those with a ``dataset.json`` are read after it.
    channels
        How many images make up a study, or the contrast of each in the order of the network's channels
        (``("t1c", "t1n", "t2w", "t2f")``). Files are brought together by the naming of nnU-Net, BraTS and
        BIDS; a 4D file with that many volumes is a study by itself.
    rules
        Which DICOM series are wanted; one for each channel where there are several.

    Raises
    ------
    MedvitError
        If the input does not exist, or is a manifest that cannot be understood.
    """
    names = (
        [str(n) for n in range(channels)] if isinstance(channels, int) else [*map(naming.canonical, channels)]
    )
    haul = _Haul()
    for root, paths, entries in _sources(input):
        if entries is not None:
            for entry in entries:
                _take_entry(haul, root, entry, names)
        else:
            _take_files(haul, root, paths, names, rules)
    return Found(tuple(_unique(haul.studies)), tuple(haul.left_out), tuple(haul.refused))


def _sources(
    input: str | Path | Sequence[str | Path],
) -> Iterator[tuple[Path, list[Path], list[Entry] | None]]:
    # Root, by which ids are formed; and either files or the entries of a manifest.
    if not isinstance(input, str | Path):
        for part in input:
            yield from _sources(part)
        return
    path = Path(input)
    if not path.exists():
        root = next(folder for folder in (path, *path.parents) if not glob.has_magic(str(folder)))
        matches = sorted(root.glob(str(path.relative_to(root)))) if root != path and root.is_dir() else []
        if not matches:
            raise MedvitError(f"{path} does not exist")
        yield root, [f for match in matches for f in ([match] if match.is_file() else _walk(match))], None
    elif path.is_dir():
        manifest = path / "dataset.json"
        yield (
            path,
            [] if manifest.is_file() else _walk(path),
            read_manifest(manifest) if manifest.is_file() else None,
        )
    elif path.suffix.lower() in MANIFEST_SUFFIXES:
        yield path.parent, [], read_manifest(path)
    else:
        yield path.parent, [path], None


def _walk(folder: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent) / name for name in sorted(files) if not name.startswith(".")]
    return found


def format_of(path: Path) -> str:
    """``"nifti"``, ``"itk"`` or ``"dicom"``, by name and first bytes; empty for what is none of them."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return "nifti"
    if name.endswith(ITK_SUFFIXES):
        return "itk"
    if name.endswith(DICOM_SUFFIXES) or name == "dicomdir":
        return "dicom"
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return ""
    # Without a preamble, a data set begins with an element of group 0002 or 0008.
    return (
        "dicom"
        if start[128:] == b"DICM" or start[:4] in (b"\2\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0")
        else ""
    )


def _take_entry(haul: _Haul, root: Path, entry: Entry, names: Sequence[str]) -> None:
    study_id = safe_name(entry.id) if entry.id else _id_of(root, entry.paths[0], len(entry.paths) > 1)
    try:
        if missing := [path for path in entry.paths if not path.exists()]:
            raise StudyError("missing-file", "is listed but does not exist", path=missing[0])
        series = [one for path in entry.paths for one in _series_of(path, names)]
        if len(series) != len(names):
            what = f"has {len(series)} images where {len(names)} are expected"
            raise StudyError("channels-missing", what, path=entry.paths[0], do="list one image a channel")
        haul.studies.append(Study(study_id, tuple(series)))
    except StudyError as error:
        haul.refused.append(Refused(study_id, error))


def _series_of(path: Path, names: Sequence[str]) -> list[Series]:
    if path.is_dir() or format_of(path) == "dicom":
        from medvit.data import dicom

        return dicom.scan([path]).series
    kind = format_of(path)
    if not kind:
        raise StudyError("unknown-format", "is not of a format that medvit reads", path=path)
    return _volumes(path, len(names)) or [Series((path,), kind)]


def _volumes(path: Path, count: int) -> list[Series]:
    # A 4D file may hold all channels; a broken one is left for the reader to refuse.
    from medvit.data.nifti_header import read_header

    if count < 2 or format_of(path) != "nifti":
        return []
    try:
        if read_header(path).volumes != count:
            return []
    except StudyError:
        return []
    return [Series((path,), "nifti", {"volume": volume}) for volume in range(count)]


def _take_files(
    haul: _Haul,
    root: Path,
    paths: Iterable[Path],
    names: Sequence[str],
    rules: SeriesRules | Sequence[SeriesRules],
) -> None:
    paths = list(paths)
    images: list[Path] = []
    dicoms: list[Path] = []
    for path in paths:
        kind = format_of(path)
        why = naming.why_not_an_image(path, root) if kind in ("nifti", "itk") and len(paths) > 1 else ""
        if not kind:
            why = "is not an image of a format that medvit reads"
        elif path.name == "labels.nii.gz" and (path.parent / "measurements.json").is_file():
            why = "is a result of an earlier run"
        if why:
            haul.left_out.append(LeftOut(path, why))
        else:
            (dicoms if kind == "dicom" else images).append(path)
    if len(names) == 1:
        haul.studies += [Study(_id_of(root, p), (Series((p,), format_of(p)),)) for p in images]
    else:
        _take_channels(haul, root, images, names)
    if dicoms:
        _take_dicom(haul, root, dicoms, names, rules)


def _take_channels(haul: _Haul, root: Path, images: list[Path], names: Sequence[str]) -> None:
    for (folder, prefix), members in naming.group(images, names).items():
        everything = [path for paths in members.values() for path in paths]
        study_id = _id_of(root, folder / prefix if prefix else folder, True)
        if len(everything) == 1 and (volumes := _volumes(everything[0], len(names))):
            haul.studies.append(Study(study_id, tuple(volumes)))
            continue
        haul.left_out += [
            LeftOut(path, f"the channel {channel or 'of no known name'} is not asked for")
            for channel, paths in members.items()
            for path in paths
            if channel not in names and not names[0].isdigit()
        ]
        wanted = [members.get(name, []) for name in names]
        if all(len(paths) == 1 for paths in wanted):
            haul.studies.append(Study(study_id, tuple(Series((p,), format_of(p)) for [p] in wanted)))
            continue
        faults = [
            f"{'no' if not p else len(p)} {n}" for n, p in zip(names, wanted, strict=True) if len(p) != 1
        ]
        error = StudyError(
            "channels-missing",
            f"has {', '.join(faults)} image where one of each channel is needed",
            path=everything[0],
            do=f"name the files <study>_0000 to <study>_{len(names) - 1:04d}, or list them in a manifest",
        )
        haul.refused.append(Refused(study_id, error))


def _take_dicom(
    haul: _Haul,
    root: Path,
    paths: list[Path],
    names: Sequence[str],
    rules: SeriesRules | Sequence[SeriesRules],
) -> None:
    from medvit.data import dicom

    result = dicom.scan(paths)
    haul.left_out += [LeftOut(Path(one.path), one.why) for one in result.left_out]
    for series in result.series:
        haul.studies.append(Study(_dicom_id(root, series), (series,)))


def _dicom_id(root: Path, series: Series) -> str:
    # A hash, since neither UIDs nor the paths of exports are free of a patient's identity.
    identity = series.facts.get("series_uid") or str(series.paths[0].parent.relative_to(root))
    digest = hashlib.sha256(str(identity).encode()).hexdigest()[:12]
    return safe_name(f"{series.facts.get('modality') or 'DICOM'}-{digest}")


def _id_of(root: Path, path: Path, several: bool = False) -> str:
    relative = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    stem = naming.stem_of(relative) if not several or path.is_file() else relative.name
    return (
        safe_name("_".join((*relative.parts[:-1], stem)))
        if relative.parts
        else safe_name(root.resolve().name)
    )


def _unique(studies: Iterable[Study]) -> Iterator[Study]:
    from dataclasses import replace

    taken: set[str] = set()
    for study in studies:
        study_id = study.id
        if study_id.casefold() in taken:  # some file systems do not tell A from a
            digest = hashlib.sha256(str(study.path.resolve()).encode()).hexdigest()[:8]
            study_id = f"{study.id}-{digest}"
        taken.add(study_id.casefold())
        yield replace(study, id=study_id)
