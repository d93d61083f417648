"""Preflight check of a study from its headers alone: facts and problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medvit.errors import StudyError
from medvit.studies.discover import ANY_SERIES, find_studies
from medvit.studies.formats import check_single
from medvit.studies.found import Found, LeftOut, Refused
from medvit.studies.grids import axis_codes
from medvit.studies.series_rules import Rules
from medvit.studies.study import Grid, Study


@dataclass(frozen=True)
class Preflight:
    """The facts and problems in the headers of a study.

    Parameters
    ----------
    id, path
        Id of the study, and its first file.
    format
        One of `medvit.studies.formats.SUFFIXES`.
    channels
        Number of images.
    shape
        Voxels along the axes of the first image; ``None`` where the header does not pass.
    spacing
        Spacing in mm.
    orientation
        Direction in which each voxel axis points in the patient, such as ``"RAS"``; for DICOM, the plane of
        the slices.
    problems
        Code and sentence of each reason why the study would be refused.
    notes
        Decisions of the reader that the user should know.
    """

    id: str
    path: Path | None
    format: str = ""
    channels: int = 0
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    orientation: str = ""
    problems: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the headers allow the study to be read."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = asdict(self) | {"path": str(self.path or ""), "ok": self.ok}
        return facts | {"problems": [{"code": code, "what": what} for code, what in self.problems]}

    def __str__(self) -> str:
        facts = [self.format, f"{self.channels} channels" if self.channels > 1 else ""]
        if self.shape and self.spacing:
            facts += [f"{_times(self.shape)} voxels of {_times(self.spacing)} mm", self.orientation]
        lines = [f"{self.id}: {', '.join(filter(None, facts)) or 'not readable'}"]
        lines += [f"  refused: {what}" for _, what in self.problems]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


@dataclass(frozen=True)
class Checked:
    """Result of a preflight check of an input.

    Parameters
    ----------
    studies
        Studies that would be read or refused; `len` and iteration refer to them.
    left_out
        Everything else that was found, with the reason for leaving it out.
    """

    studies: tuple[Preflight, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def ok(self) -> bool:
        """Whether there are studies, and none would be refused."""
        return bool(self.studies) and all(one.ok for one in self.studies)

    def __len__(self) -> int:
        return len(self.studies)

    def __iter__(self) -> Iterator[Preflight]:
        return iter(self.studies)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        left_out = [{"path": str(one.path), "why": one.why} for one in self.left_out]
        return {"studies": [one.as_dict() for one in self.studies], "left_out": left_out}

    def __str__(self) -> str:
        return "\n".join(
            [*map(str, self.studies), *(f"left out: {one.path}: {one.why}" for one in self.left_out)]
        )


def check_studies(
    input: str | Path | Sequence[str | Path],
    *,
    channels: int | Sequence[str] = 1,
    rules: Rules = ANY_SERIES,
) -> Checked:
    """The facts of each study in the input, and every problem in its headers; no voxel is read.

    Parameters
    ----------
    input, channels, rules
        Same as in `find_studies`.

    Raises
    ------
    MedvitError
        If the input does not exist, or is a manifest that cannot be understood.
    """
    return check_found(find_studies(input, channels=channels, rules=rules))


def check_found(found: Found, look: Callable[[Study], Study] | None = None) -> Checked:
    """As `check_studies`, for studies that have been found.

    Parameters
    ----------
    found
        Studies, and those refused during the search.
    look
        Function that checks a study whose headers pass: it raises `StudyError` or returns the study with
        notes.
    """
    checked = []
    for study in found.studies:
        seen = check_study(study)
        if look is not None and seen.ok:
            try:
                notes = look(study).notes
            except StudyError as error:
                seen = replace(seen, problems=((error.code, str(error)),))
            else:
                seen = replace(seen, notes=tuple(dict.fromkeys((*seen.notes, *notes))))
        checked.append(seen)
    return Checked((*checked, *map(_of_refused, found.refused)), found.left_out)


def check_study(study: Study) -> Preflight:
    """The facts of one study, and the problems in its headers."""
    series = study.series[0]
    count = len(study.series)
    grids: list[Grid] = []
    problems: list[tuple[str, str]] = []
    notes = list(study.notes)
    for one in study.series:
        if one.format == "dicom":
            if "problem" in one.facts:
                problems.append((one.facts["problem_code"], one.facts["problem"]))
            if one.facts.get("tilted"):
                what = "the slices were acquired at a tilt, and are read only if resampling is allowed"
                problems.append(("dicom-gantry-tilt", f"{one.paths[0]}: {what}"))
            notes += one.facts.get("notes", ())
            continue
        try:
            header = check_single(one)
        except StudyError as error:
            problems.append((error.code, str(error)))
        else:
            notes += [note for note in header.notes if note not in notes]
            grids.append(header.grid)
            if not header.grid.matches(grids[0]):
                problems.append(("channels-grid", f"{one.paths[0]}: lies on another grid than {study.path}"))
    shape, spacing = series.facts.get("shape"), series.facts.get("spacing")
    orientation = series.facts.get("plane", "")
    if grids:
        shape, spacing, orientation = grids[0].shape, grids[0].spacing, axis_codes(grids[0].affine)
    return Preflight(
        study.id, study.path, series.format, count, shape, spacing, orientation, tuple(problems), tuple(notes)
    )


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _of_refused(refused: Refused) -> Preflight:
    error = refused.error
    return Preflight(refused.id, error.path, problems=((error.code, str(error)),))
