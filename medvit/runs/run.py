"""A cohort from its studies to its record: what is to do, who does it, and what came of it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from medvit.bundles import Bundle
from medvit.errors import MedvitError
from medvit.exits import ALL_WELL, NOTHING_TO_DO, SOME_FAILED
from medvit.runs.attempt import Work, clear_lost, finished, made_from
from medvit.runs.bundle_work import BundleWork
from medvit.runs.cluster import ClusterExecutor
from medvit.runs.dispatch import Executor, attempts
from medvit.runs.done import DONE, why_not_done
from medvit.runs.journal import Journal, living_runs, read_events
from medvit.runs.outcome import StudyOutcome
from medvit.runs.progress import CohortProgress
from medvit.runs.record import write_record
from medvit.runs.workers import LocalExecutor, usable_cpus
from medvit.studies import Found, LeftOut, Study, safe_join

_CHECKERS = 4


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Parameters
    ----------
    kept
        Studies that are done.
    to_do
        All others.
    redone
        Of those, the ones that have results which do not count, and why.
    """

    kept: tuple[Study, ...]
    to_do: tuple[Study, ...]
    redone: dict[str, str]

    @classmethod
    def of(cls, work: Work, studies: Sequence[Study], *, resume: bool = True) -> Plan:
        """Compare done marks with the studies; without `resume`, all marks are taken away first."""
        if not resume:
            for study in studies:
                (safe_join(work.output_dir, study.id) / DONE).unlink(missing_ok=True)

        def why(study: Study) -> str:
            try:
                return why_not_done(safe_join(work.output_dir, study.id), made_from(work, study))
            except (OSError, MedvitError):
                return "its input cannot be read"

        with ThreadPoolExecutor(_CHECKERS) as checkers:
            reasons = list(checkers.map(why, studies))
        both = list(zip(studies, reasons, strict=True))
        has_results = [safe_join(work.output_dir, study.id).exists() for study in studies]
        return cls(
            tuple(study for study, reason in both if not reason),
            tuple(study for study, reason in both if reason),
            {s.id: why for (s, why), old in zip(both, has_results, strict=True) if why and old},
        )


def run_cohort(
    bundle: Bundle,
    inputs: Sequence[str],
    output_dir: str | Path,
    *,
    workers: int = 0,
    resume: bool = True,
    scheduler: str = "",
    time_limit: float | None = None,
    retries: int = 1,
    gpu: bool = False,
    **overrides: Any,
) -> int:
    """Run the inference workflow of a bundle over many studies, each on its own.

    Parameters
    ----------
    bundle, inputs, overrides
        As `medvit.runs.run_bundle`.
    output_dir
        Where results go; a run that was broken off goes on here.
    workers
        Processes on this machine; 0 for one a CPU, at most four.
    resume
        Whether studies that are done stay as they are.
    scheduler
        Address of a Dask scheduler; its workers are used then, and not those of this machine.
    time_limit
        Seconds a study may take.
    retries
        How often a study is tried again after a failure that may pass.
    gpu
        Whether a study needs a Dask worker with a ``GPU`` resource.

    Returns
    -------
    int
        Exit code: 0 all well, 2 nothing to do, 3 some studies failed.

    Raises
    ------
    MedvitError
        If no study could be done: no weights, no scheduler, or another run with other settings is going on.
    """
    output = Path(output_dir).absolute()
    count = workers or min(4, usable_cpus())
    work = BundleWork(bundle, output, overrides, 0 if scheduler else max(1, usable_cpus() // count))

    def start() -> Executor:
        if scheduler:
            return ClusterExecutor(work, scheduler, time_limit, {"GPU": 1} if gpu else None)
        return LocalExecutor(work, count, time_limit)

    return run_work(work, work.find(inputs), start, resume=resume, retries=retries)


def run_work(
    work: Work, found: Found, start: Callable[[], Executor], *, resume: bool = True, retries: int = 1
) -> int:
    """Have `work` done to the studies of `found`, and record it; the exit code is that of `run_cohort`.

    Parameters
    ----------
    work
        What is done to a study.
    found
        The studies.
    start
        Gives the executor, once it is known that there is something to do.
    resume, retries
        As in `run_cohort`.
    """
    console, started = Console(stderr=True), time.time()
    found = _without_results(found, work.output_dir)
    for thing in found.left_out:
        console.print(f"left out: {thing.path}: {thing.why}", markup=False, style="dim")
    total = len(found.studies) + len(found.refused)
    if not total:
        console.print("Nothing to do: no study was found.", style="bold red")
        return NOTHING_TO_DO
    made_by = json.loads(json.dumps(work.made_by()))
    _refuse_other_settings(work.output_dir, made_by)
    journal = Journal(work.output_dir)
    journal.note("begin", host=socket.gethostname(), pid=os.getpid(), total=total, made_by=made_by)
    plan = Plan.of(work, found.studies, resume=resume)
    journal.note("planned", kept=[study.id for study in plan.kept])
    _tell(console, plan)
    outcomes = {s.id: finished(s, safe_join(work.output_dir, s.id)) for s in plan.kept}
    with CohortProgress(console, total, len(plan.kept)) as progress:
        for outcome, event in _outcomes(plan, found, start, retries, journal):
            outcomes[outcome.study] = outcome
            journal.note(event, **_facts(outcome))
            if event == "failed":
                clear_lost(work.output_dir, outcome.study)
            progress.show(outcome, event)
    in_order = [outcomes[one.id] for one in (*found.refused, *found.studies) if one.id in outcomes]
    write_record(work.output_dir, in_order, found, made_by, plan.redone, started, console)
    well = len(in_order) == total and all(outcome.status == "done" for outcome in in_order)
    journal.note("end", exit_code=ALL_WELL if well else SOME_FAILED)
    return ALL_WELL if well else SOME_FAILED


def _outcomes(
    plan: Plan, found: Found, start: Callable[[], Executor], retries: int, journal: Journal
) -> Iterator[tuple[StudyOutcome, str]]:
    for refused in found.refused:
        outcome = StudyOutcome(refused.id)
        outcome.fail(refused.error)
        yield outcome, "failed"
    if plan.to_do:
        executor = start()
        try:
            yield from attempts(executor, plan.to_do, retries, journal.beat)
        finally:
            executor.close()


def _without_results(found: Found, output: Path) -> Found:
    # When the output folder lies within the input, results of an earlier run are no studies.
    results = [s for s in found.studies if output.resolve() in s.path.resolve().parents]
    left_out = tuple(LeftOut(s.path, "is a result of an earlier run") for s in results)
    ids = {s.id for s in results}
    return replace(
        found,
        studies=tuple(s for s in found.studies if s.id not in ids),
        left_out=found.left_out + left_out,
    )


def _refuse_other_settings(output: Path, made_by: dict[str, Any]) -> None:
    for begin in living_runs(output, read_events(output)):
        if begin["made_by"] != made_by:
            who = f"process {begin['pid']} on {begin['host']}"
            what = f"{output}: {who} is filling it with other weights or settings"
            raise MedvitError(f"{what}; take another folder")


def _tell(console: Console, plan: Plan) -> None:
    if plan.kept or plan.redone:
        console.print(f"Resuming: {len(plan.kept)} done, {len(plan.to_do)} to do.", highlight=False)
    for study, why in plan.redone.items():
        console.print(f"  again: {study}: {why}", markup=False, highlight=False, soft_wrap=True)


def _facts(outcome: StudyOutcome) -> dict[str, Any]:
    facts: dict[str, Any] = {"study": outcome.study}
    if outcome.status == "failed":
        return facts | {"stage": outcome.stage, "code": outcome.code, "error": outcome.error}
    return facts | {"seconds": outcome.seconds}
