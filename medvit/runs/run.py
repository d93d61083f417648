"""A run from its studies to its record: the plan, its execution, and the result."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from medvit.bundles import Bundle
from medvit.errors import MedvitError
from medvit.exits import ALL_WELL, INTERRUPTED, NOTHING_TO_DO, SOME_FAILED, STOPPED_BY_ERROR
from medvit.runs.bundle_work import BundleWork
from medvit.runs.cluster import ClusterExecutor
from medvit.runs.dispatch import Executor, attempts
from medvit.runs.done import lies_in_results
from medvit.runs.journal import Journal, living_runs, read_events
from medvit.runs.outcome import StudyOutcome
from medvit.runs.plan import RunPlan, refuse_reserved_ids
from medvit.runs.progress import RunProgress
from medvit.runs.record import RunFacts, show_summary, write_record
from medvit.runs.work import Work, clear_failed, clear_lost, finished
from medvit.runs.workers import LocalExecutor, usable_cpus
from medvit.studies import Found, LeftOut, Study, safe_join
from medvit.studies.done_mark import read_mark
from medvit.studies.found import NOT_AN_IMAGE
from medvit.studies.scratch import clear_abandoned

# Files and folders that were left out are listed up to this number.
_SHOWN = 20
_IN_OUTPUT = "lies in the output folder"


def run_cohort(
    bundle: Bundle,
    inputs: Sequence[str],
    output_dir: str | Path,
    *,
    workers: int = 0,
    resume: bool = True,
    overwrite: bool = False,
    scheduler: str = "",
    time_limit: float | None = None,
    retries: int = 1,
    gpu: bool = False,
    **overrides: Any,
) -> int:
    """Run the inference workflow of a bundle over many studies, each on its own, in several processes.

    Parameters
    ----------
    bundle, inputs, overrides
        The same arguments as of `medvit.runs.run_bundle`.
    output_dir
        Folder of the results; an interrupted run continues here.
    workers
        Number of processes on this machine; 0 means one per CPU, at most four.
    resume, overwrite, retries
        Same as in `run_work`.
    scheduler
        Address of a Dask scheduler; its workers are then used instead of those of this machine.
    time_limit
        Seconds that a study may take.
    gpu
        Whether a study needs a Dask worker with a ``GPU`` resource.

    Returns
    -------
    int
        Same as in `run_work`.

    Raises
    ------
    MedvitError
        If no study could be done: no weights, no scheduler, or another run with other settings is active.
    """
    output = Path(output_dir).absolute()
    count = workers or min(4, usable_cpus())
    work = BundleWork(bundle, output, overrides, 0 if scheduler else max(1, usable_cpus() // count))

    found = work.find(inputs)
    if not scheduler:  # whose workers may have other devices than this machine
        work.check()

    def start(progress: RunProgress) -> Executor:
        if scheduler:
            return ClusterExecutor(work, scheduler, time_limit, {"GPU": 1} if gpu else None)
        return LocalExecutor(work, count, time_limit)

    return run_work(work, found, start, resume=resume, overwrite=overwrite, retries=retries, named=inputs)


def run_work(
    work: Work,
    found: Found,
    start: Callable[[RunProgress], Executor],
    *,
    resume: bool = True,
    overwrite: bool = False,
    retries: int = 1,
    named: Sequence[str | Path] = (),
) -> int:
    """Do `work` on the studies of `found`, and record it.

    Parameters
    ----------
    work
        Work on each study.
    found
        The studies.
    start
        Function that returns the executor, called once there is something to do.
    resume
        Whether studies that are done stay as they are, and input that was refused is not tried again.
    overwrite
        Whether results of another input or another bundle may be replaced.
    retries
        Number of further attempts at a study after a failure that may be temporary.
    named
        Inputs as they were given; a result of another run is a study only if it was named explicitly.

    Returns
    -------
    int
        Exit code: 0 all well; 2 nothing to do; 3 some studies failed, lack a requested output, or
        are red; 130 interrupted.

    Raises
    ------
    MedvitError
        If no study could be done, or an id is one of the record's own names.
    """
    console, started = Console(stderr=True), time.time()
    clear_abandoned()
    found = _without_results(found, work.output_dir, named)
    total = len(found.studies) + len(found.refused)
    _say_left_out(found.left_out, console, is_recorded=bool(total))
    if not total:
        console.print(f"Nothing to do: {_why_nothing(found.left_out)}.", style="bold red", soft_wrap=True)
        return NOTHING_TO_DO
    refuse_reserved_ids(found)
    made_by = json.loads(json.dumps(work.made_by()))
    _refuse_other_settings(work.output_dir, made_by)
    journal = Journal(work.output_dir)
    journal.note("begin", host=socket.gethostname(), pid=os.getpid(), total=total, made_by=made_by)
    outcomes: dict[str, StudyOutcome] = {}
    kept: set[str] = set()
    plan = RunPlan()
    with journal.beating(), RunProgress(console, total) as progress:
        try:
            plan = RunPlan.of(
                work.output_dir, made_by, found.studies, progress, resume=resume, overwrite=overwrite
            )
            journal.note("planned", kept=[study.id for study in plan.kept])
            for outcome, event in _outcomes(work, plan, found, start, retries, progress):
                outcomes[outcome.study] = outcome
                kept |= {outcome.study} if event == "kept" else set()
                journal.note(event, **_facts(outcome))
                if event == "failed":
                    clear_failed(work.output_dir, outcome.study, made_by)
                progress.show(outcome, event)
            interrupted = False
        except MedvitError:
            journal.note("end", exit_code=STOPPED_BY_ERROR)
            raise
        except KeyboardInterrupt:
            interrupted = True
            for study in plan.to_do:
                clear_lost(work.output_dir, study.id)
            outcomes |= _done_meanwhile(work.output_dir, plan, outcomes)
    in_order = [outcomes[one.id] for one in (*found.refused, *found.studies) if one.id in outcomes]
    well = len(in_order) == total and all(outcome.well for outcome in in_order)
    code = INTERRUPTED if interrupted else ALL_WELL if well else SOME_FAILED
    facts = RunFacts(made_by, started, code, kept, plan.redone)
    write_record(work.output_dir, in_order, found, facts)
    journal.note("end", exit_code=code)
    show_summary(work.output_dir, in_order, total, interrupted=interrupted)
    return code


def _outcomes(
    work: Work,
    plan: RunPlan,
    found: Found,
    start: Callable[[RunProgress], Executor],
    retries: int,
    progress: RunProgress,
) -> Iterator[tuple[StudyOutcome, str]]:
    for refused in found.refused:
        outcome = StudyOutcome(refused.id)
        outcome.fail(refused.error)
        yield outcome, "failed"
    for study in plan.kept:
        yield finished(study, safe_join(work.output_dir, study.id)), "kept"
    for outcome in plan.refused:
        yield outcome, "refused"
    if plan.to_do:
        executor = start(progress)
        try:
            yield from attempts(executor, plan.to_do, retries)
        finally:
            executor.close()


def _done_meanwhile(
    output: Path, plan: RunPlan, outcomes: dict[str, StudyOutcome]
) -> dict[str, StudyOutcome]:
    # Files that were being written at the interruption are complete.
    made = [s for s in plan.to_do if s.id not in outcomes and s.id not in plan.redone]
    folders = {s.id: safe_join(output, s.id) for s in made}
    return {s.id: finished(s, folders[s.id]) for s in made if read_mark(folders[s.id]) is not None}


def _without_results(found: Found, output: Path, named: Sequence[str | Path]) -> Found:
    """`found` without files in the output folder, or beside the done mark of any run."""
    root, exempt = output.resolve(), {Path(path).resolve() for path in named}

    def why(path: Path | None) -> str:
        if path is None:
            return ""
        if root in path.resolve().parents:
            return _IN_OUTPUT
        of_a_run = path.resolve() not in exempt and lies_in_results(path)
        return "is a result of an earlier run" if of_a_run else ""

    results = {s.id: LeftOut(s.path, said) for s in found.studies for p in _files(s) if (said := why(p))}
    results |= {
        r.id: LeftOut(r.error.path or output, said) for r in found.refused if (said := why(r.error.path))
    }
    return replace(
        found,
        studies=tuple(s for s in found.studies if s.id not in results),
        refused=tuple(r for r in found.refused if r.id not in results),
        left_out=(*found.left_out, *results.values()),
    )


def _files(study: Study) -> Iterator[Path]:
    for series in study.series:
        yield from series.paths


def _why_nothing(left_out: Sequence[LeftOut]) -> str:
    if any(thing.why == _IN_OUTPUT for thing in left_out):
        return "the studies lie in the output folder; choose another folder for the output"
    return "no study was found"


def _say_left_out(left_out: Sequence[LeftOut], console: Console, *, is_recorded: bool) -> None:
    # Images that are left out come before files that nobody would take for one, which may be many.
    in_order = sorted(left_out, key=lambda thing: thing.why == NOT_AN_IMAGE)
    lines = [f"left out: {thing.path}: {thing.why}" for thing in in_order[:_SHOWN]]
    if len(left_out) > _SHOWN:
        where = ", which run.json lists" if is_recorded else ""
        lines.append(f"left out: {len(left_out) - _SHOWN} more{where}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True, style="dim")


def _refuse_other_settings(output: Path, made_by: dict[str, Any]) -> None:
    for begin in living_runs(output, read_events(output)):
        if begin["made_by"] != made_by:
            who = f"process {begin['pid']} on {begin['host']}"
            what = f"{output}: {who} is filling it with other weights or settings"
            raise MedvitError(f"{what}; choose another folder")


def _facts(outcome: StudyOutcome) -> dict[str, Any]:
    facts: dict[str, Any] = {"study": outcome.study}
    if outcome.status == "failed":
        return facts | {"stage": outcome.stage, "code": outcome.code, "error": outcome.error}
    return facts | {"seconds": outcome.seconds, "light": outcome.light}
