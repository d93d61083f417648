"""Result of a search for studies: studies, deliberate omissions, and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medvit.errors import StudyError
from medvit.studies.study import Study

#: Why a file that no reader knows is left out.
NOT_AN_IMAGE = "is not an image"


@dataclass(frozen=True)
class LeftOut:
    """A file or series that was found but not used, and the reason in one clause."""

    path: Path
    why: str


@dataclass(frozen=True)
class Refused:
    """A study that was found but cannot be processed."""

    id: str
    error: StudyError


Outcome = Study | LeftOut | Refused


@dataclass(frozen=True)
class Found:
    """Result of `find_studies`.

    Parameters
    ----------
    studies
        Studies in a stable order, with unique ids that are safe as folder names.
    left_out
        Files and series that were found and deliberately not used.
    refused
        Studies that lack a channel or a file, or whose channels cannot be identified.
    """

    studies: tuple[Study, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    refused: tuple[Refused, ...] = ()
