"""Finding studies: any input becomes a list of studies, with the names of everything left out."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from medvit.errors import MedvitError, StudyError
from medvit.studies import channels as naming
from medvit.studies.dicom.studies import dicom_studies
from medvit.studies.files import safe_name
from medvit.studies.formats import READABLE, format_of, read_header, series_at, voxels_of
from medvit.studies.found import NOT_AN_IMAGE, Found, LeftOut, Outcome, Refused
from medvit.studies.scratch import lasting_scratch_folder
from medvit.studies.series_rules import Rules, SeriesRules
from medvit.studies.study import Series, Study

if TYPE_CHECKING:
    from medvit.studies.manifests import Case

__all__ = ["Found", "LeftOut", "Refused", "SeriesRules", "find_studies", "only_study"]

MANIFEST_SUFFIXES = (".json", ".csv", ".yaml", ".yml")
ANY_SERIES = SeriesRules()


def find_studies(
    input: str | Path | Sequence[str | Path],
    *,
    channels: int | Sequence[str] = 1,
    rules: Rules = ANY_SERIES,
) -> Found:
    """The studies in a file, a folder, a glob, a manifest, a DICOM folder or zip, or in several of these.

    Only names and headers are read. A file that looks like an image counts as a study even if it is broken,
    so that its reader says what is wrong with it.

    Parameters
    ----------
    input
        Folders are searched with all of their subfolders; one with a ``dataset.json`` is read according to
        it. In a DICOM export, each series is a study.
    channels
        Number of images in a study, or the contrast of each in the order of the network's channels (``("t1c",
        "t1n", "t2w", "t2f")``). Files are combined by the naming of nnU-Net, BraTS and BIDS; a 4D file with
        that many volumes is a study by itself.
    rules
        Rules for the DICOM series that are wanted; one for each channel where there are several.

    Returns
    -------
    Found
        Ids are formed from paths below the input or, for DICOM, from digests of UIDs.

    Raises
    ------
    MedvitError
        If the input does not exist, or is a manifest that cannot be understood.
    """
    wanted = map(str, range(channels)) if isinstance(channels, int) else channels
    names = [naming.canonical(name) for name in wanted]
    # A command line may convert a folder named 2024 to a number.
    several = isinstance(input, Sequence) and not isinstance(input, str)
    given = [Path(str(path)) for path in (input if several else [input])]  # type: ignore[union-attr]
    sources = _Sources(given)
    found: list[Outcome] = [*sources.set_aside, *_listed(sources.entries, names, rules)]
    dicoms: dict[Path, Path] = {}
    images: dict[Path, Path] = {}
    for path, known_as in sources.files.items():
        kind = format_of(path)
        if why := _why_left_out(path, known_as, kind, named=path in sources.named):
            found.append(LeftOut(path, why))
        else:
            (dicoms if kind == "dicom" else images)[path] = known_as
    if len(names) == 1:
        found += [Study(_id_of(known_as), (series_at(path),)) for path, known_as in images.items()]
    else:
        found += _assembled(images, names)
    if dicoms:
        # A file among DICOM files that is not one itself may be an image that lost its content.
        folders = {path.parent for path in dicoms}
        lying = [one for one in found if isinstance(one, LeftOut) and one.path.parent in folders]
        lying = [one for one in lying if one.path in sources.files and one.path.suffix.lower() != ".zip"]
        strays = [one for one in lying if not format_of(one.path)]
        taken = {one.path for one in strays}
        found = [one for one in found if not isinstance(one, LeftOut) or one.path not in taken]
        dicoms |= {one.path: sources.files[one.path] for one in strays}
        found += dicom_studies(dicoms, names, rules)
    return _with_unique_ids([sources.shown(one) for one in found], sources.unpacked)


def only_study(
    input: str | Path | Sequence[str | Path],
    *,
    channels: int | Sequence[str] = 1,
    rules: Rules = ANY_SERIES,
) -> Study:
    """The one study in the input.

    Parameters
    ----------
    input, channels, rules
        The same arguments as of `find_studies`.

    Raises
    ------
    StudyError
        If there are no or several studies, or the only one cannot be processed.
    """
    return the_only(find_studies(input, channels=channels, rules=rules), input)


def the_only(found: Found, input: str | Path | Sequence[str | Path]) -> Study:
    """The only study that was found in the input.

    Raises
    ------
    StudyError
        As `only_study`.
    """
    if found.refused and not found.studies:
        raise found.refused[0].error
    if len(found.studies) + len(found.refused) != 1:
        path = Path(input if isinstance(input, str | Path) else input[0])
        count = len(found.studies) + len(found.refused)
        why = (
            f": {found.left_out[0].path.name} {found.left_out[0].why}" if found.left_out and not count else ""
        )
        what = f"holds {count or 'no'} studies where one is expected{why}"
        do = "name the file or folder of one study" if count else f"give {READABLE}"
        raise StudyError("not-one-study", what, path=path, do=do)
    return found.studies[0]


@dataclass
class _Sources:
    """The files of all inputs, each with the path by which it is known, and the entries of manifests.

    Files that were unpacked are shown by their place in the archive.
    """

    given: list[Path]
    files: dict[Path, Path] = field(default_factory=dict)
    named: set[Path] = field(default_factory=set)
    entries: list[Case] = field(default_factory=list)
    set_aside: list[Outcome] = field(default_factory=list)
    unpacked: dict[Path, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path, known_below in zip(self.given, _roots(self.given), strict=True):
            try:
                self._add(path, known_below)
            except MedvitError as error:
                if len(self.given) == 1:
                    raise
                if isinstance(error, StudyError):
                    self.set_aside.append(Refused(_id_of(known_below / path.name), error))
                else:  # a JSON or CSV file beside images that is not a manifest
                    self.set_aside.append(LeftOut(path, str(error)))

    def shown(self, one: Outcome) -> Outcome:
        """Everything left out, by the path that the user knows."""
        if not isinstance(one, LeftOut):
            return one
        return replace(one, path=self.unpacked.get(one.path, one.path))

    def _add(self, path: Path, known_below: Path) -> None:
        path = voxels_of(path) or path
        barred: list[StudyError] = []
        root, found = _expand(path, barred)
        for error in barred:  # its studies are missing, but not those beside it
            below = error.path.relative_to(root) if error.path else Path()
            self.set_aside.append(Refused(_id_of(known_below / below, is_stem=True), error))
        if path.is_dir() and path / "dataset.json" in found:
            path /= "dataset.json"
        if path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
            self._add_manifest(path)
        elif path.suffix.lower() == ".zip" and path.is_file():
            self._add_zip(path)
        elif fresh := {f: known_below / f.relative_to(root) for f in found if f not in self.files}:
            self.files |= fresh
            self.named |= {path} & set(found)
        elif found:
            self.set_aside.append(LeftOut(path, "was given before"))
        elif barred:
            return
        elif path.is_dir():
            self.set_aside.append(LeftOut(path, "is a folder without files"))
        else:
            raise StudyError("missing-file", "does not exist", path=path, do="check the path")

    def _add_manifest(self, path: Path) -> None:
        from medvit.studies.manifests import named_cases, read_manifest, why_empty

        manifest = read_manifest(path)
        cases = named_cases(manifest, path.parent)
        if not cases:
            raise MedvitError(why_empty(manifest, path.parent))
        channels = manifest.channels if manifest.channels != ("image",) else ()
        self.entries += [replace(case, channels=case.channels or channels) for case in cases]

    def _add_zip(self, path: Path) -> None:
        from medvit.studies import dicom

        folder = lasting_scratch_folder() / path.name  # so that an error of a reader names the archive
        for file in dicom.unzip(path, folder):
            below = file.relative_to(folder)
            if file.suffix.lower() == ".zip":
                why = "is an archive in an archive; unpack it, and give the folder"
                self.set_aside.append(LeftOut(path / below, why))
            else:
                self.files[file] = path.stem / below
                self.unpacked[file] = path / below


def _roots(given: list[Path]) -> list[Path]:
    # With several inputs, the distinguishing part of their folders precedes the paths below each.
    roots = [_root(path).resolve() for path in given]
    common = os.path.commonpath(roots) if roots else ""
    return [root.relative_to(common) for root in roots]


def _root(path: Path) -> Path:
    if path.exists():
        return path if path.is_dir() else path.parent
    return next(folder for folder in path.parents if not glob.has_magic(str(folder)))


def _expand(path: Path, barred: list[StudyError]) -> tuple[Path, list[Path]]:
    # The files of the input, and the folder below which their paths distinguish them.
    root = _root(path)
    if path.exists():
        return root, list(_walk(path, barred)) if path.is_dir() else [path]
    matches = sorted(root.glob(str(path.relative_to(root)))) if glob.has_magic(str(path)) else []
    return root, [file for match in matches for file in (_walk(match, barred) if match.is_dir() else [match])]


def _walk(folder: Path, barred: list[StudyError] | None = None) -> Iterator[Path]:
    """The files below `folder`; a subfolder that cannot be searched goes to `barred`, or is refused."""

    def fail(error: OSError) -> None:
        what = f"cannot be searched: {error.strerror}"
        refusal = StudyError("unreadable", what, path=error.filename, do="check its permissions")
        if barred is None or Path(error.filename) == folder:
            raise refusal
        barred.append(refusal)

    seen = {os.path.realpath(folder)}  # symbolic links are followed, but never in a loop
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        real = {name: os.path.realpath(Path(parent, name)) for name in folders if not name.startswith(".")}
        folders[:] = sorted(name for name, target in real.items() if target not in seen)
        seen |= set(real.values())
        paths = (Path(parent, name) for name in sorted(files) if not name.startswith("."))
        # A dangling link is a missing image; reading a pipe would block.
        yield from (path for path in paths if path.is_file() or not path.exists())


def _why_left_out(path: Path, known_as: Path, kind: str, *, named: bool) -> str:
    if "__MACOSX" in known_as.parts:
        return "was added to an archive by macOS, and is not an image"
    if header := voxels_of(path):
        return f"holds the voxels of {header.name}"
    if path.suffix.lower() == ".zip":
        return "is an archive; unpack it, or name it explicitly"
    if not kind:
        return NOT_AN_IMAGE
    if path.name == "labels.nii.gz" and (path.parent / "measurements.json").is_file():
        return "is a result of an earlier run"
    return "" if named or kind == "dicom" else naming.why_not_an_image(known_as)


def _listed(entries: Iterable[Case], names: Sequence[str], rules: Rules) -> Iterator[Study | Refused]:
    for entry in entries:
        study_id = safe_name(entry.id)
        try:
            yield _of_entry(study_id, entry, names, rules)
        except StudyError as error:
            yield Refused(study_id, error)


def _of_entry(study_id: str, entry: Case, names: Sequence[str], rules: Rules) -> Study:
    series: list[Series] = []
    patient: dict = {}
    alone = len(entry.images) == 1
    for path in entry.images:
        if not path.exists():
            raise StudyError("missing-file", "is listed but does not exist", path=path, do="correct the list")
        if path.is_dir() or format_of(path) == "dicom":
            study = _only_dicom_study(path, *((names, rules) if alone else (names[:1], ANY_SERIES)))
            series += study.series
            patient = patient or study.patient
            study_id = study_id if entry.named else study.id  # a path may carry the patient's name
        elif not format_of(path):
            raise StudyError(
                "unknown-format", "is listed but is not an image", path=path, do="correct the list"
            )
        else:
            series += (alone and _volumes(path, len(names))) or [series_at(path)]
    notes: tuple[str, ...] = ()
    if entry.channels and len(names) > 1 and not names[0].isdigit():
        series = _reordered(series, entry, names)
    elif len(series) > 1:
        notes = (_in_order(names),)
    if len(series) != len(names):
        what = f"begins a study of {len(series)} images where {len(names)} are expected"
        raise StudyError("channels-missing", what, path=entry.images[0], do="list one image per channel")
    return Study(study_id, tuple(series), patient=patient, notes=notes)


def _in_order(names: Sequence[str]) -> str:
    return f"The images were taken for {', '.join(names)} in their order."


def _only_dicom_study(path: Path, names: Sequence[str], rules: Rules) -> Study:
    files = {file: file.relative_to(path.parent) for file in (_walk(path) if path.is_dir() else [path])}
    found = list(dicom_studies(files, names, rules))
    return the_only(_with_unique_ids(found), path)


def _reordered(series: list[Series], entry: Case, names: Sequence[str]) -> list[Series]:
    stated = [naming.canonical(channel) for channel in entry.channels]
    if not set(names) <= set(stated) or len(stated) != len(series):
        what = f"begins a study of {', '.join(entry.channels)} where {', '.join(names)} are expected"
        raise StudyError("channels-missing", what, path=entry.images[0], do="list one image per channel")
    return [series[stated.index(name)] for name in names]


def _volumes(path: Path, count: int) -> list[Series]:
    # A 4D file may hold all channels; a broken one is left for the reader to refuse.
    if count < 2 or format_of(path) not in ("nifti", "analyze", "freesurfer"):
        return []
    try:
        if read_header(series_at(path)).volumes != count:
            return []
    except StudyError:
        return []
    return [series_at(path, volume) for volume in range(count)]


def _assembled(images: dict[Path, Path], names: Sequence[str]) -> Iterator[Outcome]:
    for prefix, members in naming.group(images).items():
        study_id = _id_of(prefix, True)
        everything = [path for paths in members.values() for path in paths]
        numbered = all(str(n) in members for n in range(len(names)))
        wanted = [members.get(str(n) if numbered else name, []) for n, name in enumerate(names)]
        if len(everything) == 1 and (volumes := _volumes(everything[0], len(names))):
            yield Study(study_id, tuple(volumes), notes=(_in_order(names),))
        elif all(len(paths) == 1 for paths in wanted):
            series = tuple(series_at(path) for [path] in wanted)
            yield Study(study_id, series, notes=(_in_order(names),) if numbered else ())
            yield from (LeftOut(p, "no channel asks for it") for p in everything if [p] not in wanted)
        else:
            faults = [f"{len(p)} of {name}" for name, p in zip(names, wanted, strict=True) if len(p) != 1]
            what = f"belongs to a study with {', '.join(faults)} where one image per channel is needed"
            do = f"name the files <study>_0000 to <study>_{len(names) - 1:04d}, or list them in a manifest"
            yield Refused(study_id, StudyError("channels-missing", what, path=everything[0], do=do))


def _id_of(known_as: Path, is_stem: bool = False) -> str:
    last = known_as.name if is_stem else naming.stem_of(known_as)
    return safe_name("_".join((*known_as.parts[:-1], last)))


def _with_unique_ids(found: list[Outcome], unpacked: Mapping[Path, Path] = MappingProxyType({})) -> Found:
    # Regardless of case, since some file systems do not distinguish A from a. The digest is the same however
    # a path is written, and in every unpacking of an archive, so that the study keeps its results.
    times = Counter(one.id.casefold() for one in found if not isinstance(one, LeftOut))

    def unique(study_id: str, path: Path | None) -> str:
        if times[study_id.casefold()] == 1:
            return study_id
        place = os.path.normpath(unpacked.get(path, path).absolute()) if path else ""
        return f"{study_id}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"

    return Found(
        tuple(replace(one, id=unique(one.id, one.path)) for one in found if isinstance(one, Study)),
        tuple(one for one in found if isinstance(one, LeftOut)),
        tuple(replace(one, id=unique(one.id, one.error.path)) for one in found if isinstance(one, Refused)),
    )
