"""What a search for studies gives: studies, what was left out by choice, and what is broken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medvit.errors import StudyError
from medvit.studies.study import Study


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


Outcome = Study | LeftOut | Refused


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
        Studies of which a channel or a file is missing, or whose channels cannot be told.
    """

    studies: tuple[Study, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    refused: tuple[Refused, ...] = ()
