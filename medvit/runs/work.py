"""One attempt at one study: claimed, checked, done and sealed, in the process of a worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from medvit.errors import MedvitError
from medvit.reports.quality import Verdict
from medvit.runs import refusals
from medvit.runs.claims import claim
from medvit.runs.done import clear_leftovers, input_sha256, why_not_done
from medvit.runs.journal import journal_of
from medvit.runs.outcome import Listener, StudyOutcome
from medvit.runs.plan import void_results
from medvit.studies import Study, safe_join
from medvit.studies.done_mark import read_mark

State = Literal["made", "kept", "busy", "unfit"]


class Work(Protocol):
    """The work on each study. It is sent to the workers before it is opened."""

    output_dir: Path
    # Modules that a worker needs, imported once for all workers.
    preload: tuple[str, ...]

    def open(self) -> None:
        """Load everything that all studies share, once in each worker."""

    def made_by(self) -> dict[str, Any]:
        """What distinguishes results of the same input: weights and settings, for JSON."""

    def perform(self, study: Study, outcome: StudyOutcome) -> None:
        """Fill the folder of `study` through `medvit.runs.done.study_folder` and `outcome`."""


@dataclass(frozen=True)
class Attempt:
    """The result of an attempt.

    Parameters
    ----------
    outcome
        Outcome of the study.
    state
        ``"made"``: processed; ``"kept"``: already done; ``"busy"``: another run is processing it;
        ``"unfit"``: the worker cannot do any study.
    """

    outcome: StudyOutcome
    state: State = "made"


def attempt(work: Work, study: Study, listener: Listener | None = None) -> Attempt:
    """Do `study` unless it is done or another process has it; any failure becomes its outcome."""

    def heard(study_id: str, kind: str, text: str) -> None:
        journal_of(work.output_dir).note(kind, study=study_id, **{kind: text})
        if listener is not None:
            listener(study_id, kind, text)

    outcome = StudyOutcome(study.id, listener=heard)
    try:
        with claim(work.output_dir, study.id) as ours:
            if not ours:
                return Attempt(outcome, "busy")
            clear_leftovers(work.output_dir, study.id)
            made_by, folder = work.made_by(), safe_join(work.output_dir, study.id)
            if not why_not_done(folder, made_by, partial(input_sha256, study)):
                return Attempt(finished(study, folder), "kept")
            journal_of(work.output_dir).note("started", study=study.id)
            work.perform(study, outcome)
            refusals.remember(work.output_dir, study, made_by, outcome)
    except (Exception, SystemExit) as error:
        outcome.fail(error if isinstance(error, Exception) else RuntimeError("the study ended its worker"))
    return Attempt(outcome)


def clear_lost(output_dir: Path, study_id: str) -> None:
    """Remove unfinished results that a lost worker left of a study, unless another process has it."""
    with claim(output_dir, study_id) as ours:
        if ours:
            clear_leftovers(output_dir, study_id)


def clear_failed(output_dir: Path, study_id: str, made_by: Mapping[str, Any]) -> None:
    """As `clear_lost`; results of an earlier run by the same bundle stay, marked as not valid."""
    with claim(output_dir, study_id) as ours:
        if ours:
            clear_leftovers(output_dir, study_id)
            # On a full disk, or in a folder of another user, the failure alone says so.
            with suppress(OSError, MedvitError):
                void_results(safe_join(output_dir, study_id), made_by)


def finished(study: Study, folder: Path) -> StudyOutcome:
    """The outcome of a study that an earlier run has done, from the content of its folder."""
    mark = read_mark(folder) or {"outputs": {}, "made_from": {}}
    outcome = StudyOutcome(
        study.id,
        stage="write",
        outputs=sorted(mark["outputs"]),
        missing=mark.get("missing", {}),
        inputs=mark["made_from"].get("inputs", []),
    )
    note_verdict(outcome, folder)
    return outcome


def note_verdict(outcome: StudyOutcome, folder: Path) -> None:
    """Take light, first finding and volumes from the ``measurements.json`` of `folder`, if there is one."""
    file = folder / "measurements.json"
    if not file.is_file():
        return
    content = json.loads(file.read_text(encoding="utf-8"))
    verdict = Verdict.of(content)
    outcome.light, outcome.finding = verdict.light, verdict.finding
    outcome.volumes_ml = {s["name"]: s["volume_ml"] for s in content["structures"]}
