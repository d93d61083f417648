"""One attempt at one study: claimed, checked, done and sealed, in the process of a worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from medvit.errors import StudyError
from medvit.runs.claim import claim
from medvit.runs.done import DONE, clear_leftovers, input_sha256, read_mark, why_not_done
from medvit.runs.journal import journal_of
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Study, safe_join

State = Literal["made", "kept", "busy", "unfit"]


class Work(Protocol):
    """What is done to each study. It travels to the workers before it is opened."""

    output_dir: Path
    # Modules that a worker needs, imported once for all of them.
    preload: tuple[str, ...]

    def open(self) -> None:
        """Load what all studies share, once in each worker."""

    def made_by(self) -> dict[str, Any]:
        """What tells results of the same input apart: weights and settings, for JSON."""

    def perform(self, study: Study) -> StudyOutcome:
        """Fill the folder of `study` through `medvit.runs.done.study_folder`."""


@dataclass(frozen=True)
class Attempt:
    """What came of an attempt.

    Parameters
    ----------
    outcome
        Of the study.
    state
        ``"made"``: it was worked on; ``"kept"``: it was done already; ``"busy"``: another run is at it;
        ``"unfit"``: the worker cannot do any study.
    """

    outcome: StudyOutcome
    state: State = "made"


def made_from(work: Work, study: Study) -> dict[str, Any]:
    """What the results of `study` depend on, for its done mark."""
    return work.made_by() | {"inputs": input_sha256(study)}


def attempt(work: Work, study: Study) -> Attempt:
    """Do `study` unless it is done or another process is at it; whatever goes wrong is its outcome."""
    outcome = StudyOutcome(study.id)
    try:
        with claim(work.output_dir, study.id) as ours:
            if not ours:
                return Attempt(outcome, "busy")
            clear_leftovers(work.output_dir, study.id)
            source, folder = made_from(work, study), safe_join(work.output_dir, study.id)
            if not why_not_done(folder, source):
                return Attempt(finished(study, folder), "kept")
            journal_of(work.output_dir).note("started", study=study.id)
            outcome = work.perform(study)
            if outcome.status == "done" and (read_mark(folder) or {}).get("made_from") != source:
                (folder / DONE).unlink(missing_ok=True)
                what = "changed while it was worked on"
                raise StudyError("input-changed", what, path=study.path, do="run it again")
    except (Exception, SystemExit) as error:
        outcome.fail(error if isinstance(error, Exception) else RuntimeError("the study ended its worker"))
    return Attempt(outcome)


def clear_lost(output_dir: Path, study_id: str) -> None:
    """Remove what a lost worker left half-made of a study, unless another process is at it."""
    with claim(output_dir, study_id) as ours:
        if ours:
            clear_leftovers(output_dir, study_id)


def finished(study: Study, folder: Path) -> StudyOutcome:
    """The outcome of a study that an earlier run has done."""
    mark = read_mark(folder) or {"outputs": {}}
    return StudyOutcome(study.id, stage="write", outputs=sorted(mark["outputs"]))
