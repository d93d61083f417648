"""A run over studies: progress while it goes, a record of it, and an exit code that tells the truth."""

from __future__ import annotations

import datetime
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from medvit.bundles import Bundle, open_bundle
from medvit.errors import MedvitError
from medvit.exits import ALL_WELL, NOTHING_TO_DO, SOME_FAILED
from medvit.reports.tables import csv_text
from medvit.runs.dataset import StudyDataset
from medvit.runs.evaluator import StudyEvaluator
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Found, atomic_path, write_json


def run_studies(evaluator: StudyEvaluator, dataset: StudyDataset, output_dir: str | Path) -> int:
    """Run the evaluator over a dataset, record the run, show what came out.

    Parameters
    ----------
    evaluator
        Its loader yields the items of `dataset`.
    dataset
        The studies, and what was left out or refused when they were looked for.
    output_dir
        Gets ``run.json`` (versions, weights, time per stage, status per study) and ``cohort.csv`` (volumes).

    Returns
    -------
    int
        Exit code: 0 all well, 2 nothing to do, 3 some studies failed.

    Raises
    ------
    MedvitError
        If earlier studies are to be compared with those of several patients.
    """
    console = Console(stderr=True)
    found, output = dataset.found, Path(output_dir)
    patients = {study.patient.get("id") or study.id for study in found.studies}
    options = evaluator.writer.options if evaluator.writer else None
    if len(patients) > 1 and options and (options.priors or options.age is not None or options.sex):
        raise MedvitError(
            "an earlier study, an age and a sex belong to one patient, and "
            f"{len(patients)} were found; run each by itself"
        )
    for thing in found.left_out:
        console.print(f"left out: {thing.path}: {thing.why}", markup=False, style="dim")
    if not found.studies and not found.refused:
        console.print("Nothing to do: no study was found.", style="bold red")
        return NOTHING_TO_DO
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    refused = [_refused(r.id, r.error) for r in found.refused]
    if found.studies:
        with _progress(evaluator, len(found.studies), console):
            evaluator.run()
    outcomes = refused + evaluator.outcomes
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "run.json", _record(evaluator, outcomes, found, started, time.perf_counter() - clock))
    with atomic_path(output / "cohort.csv") as partial:
        partial.write_text(_volumes_csv(outcomes), encoding="utf-8")
    _show(outcomes, output)
    return SOME_FAILED if any(o.status == "failed" for o in outcomes) else ALL_WELL


def finish(exit_code: int) -> None:
    """End the process with `exit_code` where it is not 0; the last step of a bundle's ``run``."""
    if exit_code:
        sys.exit(exit_code)


def run_bundle(bundle: Bundle, inputs: Sequence[str | Path], output_dir: str | Path, **overrides: Any) -> int:
    """Run the inference workflow of a bundle, as ``python -m monai.bundle run`` does, in this process.

    Parameters
    ----------
    bundle
        From `medvit.bundles.find_bundle`.
    inputs
        Files, folders, globs or manifests.
    output_dir
        Where results go.
    overrides
        Values of the configuration to replace, by identifier.

    Returns
    -------
    int
        As `run_studies`.
    """
    opened = open_bundle(bundle, input=[str(i) for i in inputs], output_dir=str(output_dir), **overrides)
    return run_studies(opened.part("evaluator"), opened.part("dataset"), output_dir)


def _refused(study_id: str, error: Exception) -> StudyOutcome:
    outcome = StudyOutcome(study_id)
    outcome.fail(error)
    return outcome


@contextmanager
def _progress(evaluator: StudyEvaluator, studies: int, console: Console) -> Iterator[None]:
    """A bar over studies and one over the windows of the present study."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        of_studies = progress.add_task("studies", total=studies)
        of_windows = progress.add_task("windows", total=None)

        def window_done(*_: Any) -> None:
            report = evaluator.inferer.report
            progress.update(
                of_windows, completed=report.forward_passes, total=max(report.windows, report.forward_passes)
            )

        hook = evaluator.network.register_forward_hook(window_done)
        done = evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: progress.advance(of_studies))
        try:
            yield
        finally:
            hook.remove()
            done.remove()


def _record(
    evaluator: StudyEvaluator,
    outcomes: Sequence[StudyOutcome],
    found: Found,
    started: datetime.datetime,
    seconds: float,
) -> dict[str, Any]:
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "provenance": evaluator.writer.provenance if evaluator.writer else {},
        "platform": {
            "python": platform.python_version(),
            "system": platform.system(),
            "device": str(evaluator.state.device),
            "threads": torch.get_num_threads(),
        },
        "studies": [o.as_dict() for o in outcomes],
        "failures": [
            {"study": o.study, "stage": o.stage, "code": o.code, "error": o.error}
            for o in outcomes
            if o.status == "failed"
        ],
        "left_out": [{"path": str(thing.path), "why": thing.why} for thing in found.left_out],
    }


def _volumes_csv(outcomes: Sequence[StudyOutcome]) -> str:
    """One row a study, one column a structure, in ml."""
    structures = list(dict.fromkeys(name for o in outcomes for name in o.volumes_ml))
    rows = [
        {"study": o.study, "status": o.status, "error": o.error}
        | {f"{name} (ml)": f"{volume:.3f}" for name, volume in o.volumes_ml.items()}
        for o in outcomes
    ]
    return csv_text(rows, ["study", "status", "error", *(f"{name} (ml)" for name in structures)])


def _show(outcomes: Sequence[StudyOutcome], output: Path) -> None:
    """The volumes of a single study or a line for each of several, and where the results are."""
    console = Console()
    done = [o for o in outcomes if o.status == "done"]
    if len(outcomes) == 1 and done and done[0].volumes_ml:
        console.print(_volume_table(done[0]))
    for o in done:
        seconds = sum(o.seconds.values())
        console.print(f"{o.study}: {seconds:.1f} s", markup=False, highlight=False)
        for name in o.outputs:
            console.print(f"  {output / o.study / name}", markup=False, highlight=False, soft_wrap=True)
    for o in outcomes:
        if o.status == "failed":
            console.print(
                f"FAILED {o.study} ({o.stage}): {o.error}", style="red", markup=False, soft_wrap=True
            )
    console.print(
        f"{len(done)} of {len(outcomes)} studies done; record: {output / 'run.json'}", soft_wrap=True
    )


def _volume_table(outcome: StudyOutcome) -> Table:
    table = Table(title=outcome.study)
    table.add_column("structure")
    table.add_column("ml", justify="right")
    for name, volume in outcome.volumes_ml.items():
        table.add_row(name, f"{volume:.2f}")
    return table
