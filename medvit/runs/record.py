"""The record of a cohort: what became of each study, the failures, the table and the page."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from medvit.reports.cohort import CohortRow, cohort_page, write_cohort_csv
from medvit.reports.tables import csv_text
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Found, atomic_path, safe_join, write_json

_SHOWN = 20


def write_record(
    output_dir: Path,
    outcomes: Sequence[StudyOutcome],
    found: Found,
    made_by: Mapping[str, Any],
    redone: Mapping[str, str],
    started: float,
    console: Console,
) -> None:
    """Write ``run.json``, ``failures.csv``, ``cohort.csv``, ``cohort_long.csv``, ``cohort.html``; say so.

    Parameters
    ----------
    outcomes
        Of all studies that were come to, in the order of the cohort.
    found
        The search that the studies are from.
    made_by
        Bundle, weights and settings.
    redone
        Studies whose earlier results did not count, and why.
    started
        When the run began, in seconds since 1970.
    """
    failures = [
        {"study": o.study, "stage": o.stage, "code": o.code, "error": _cause(output_dir, o)}
        for o in outcomes
        if o.status == "failed"
    ]
    known = {o.study for o in outcomes}
    content: dict[str, Any] = {
        "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 3),
        "made_by": dict(made_by),
        "platform": {"python": platform.python_version(), "system": platform.system()},
        "studies": [o.as_dict() for o in outcomes],
        "failures": failures,
        "not_reached": [s.id for s in found.studies if s.id not in known],
        "redone": dict(redone),
        "left_out": [{"path": str(thing.path), "why": thing.why} for thing in found.left_out],
    }
    write_json(output_dir / "run.json", content)
    _write_csv(output_dir / "failures.csv", ("study", "stage", "code", "error"), failures)
    _write_tables(output_dir, outcomes)
    _show(output_dir, outcomes, failures, content["not_reached"], console)


def _write_tables(output_dir: Path, outcomes: Sequence[StudyOutcome]) -> None:
    rows = [_row(output_dir, outcome) for outcome in outcomes]
    if any(row.content is not None for row in rows):
        write_cohort_csv(rows, output_dir / "cohort.csv")
        write_cohort_csv(rows, output_dir / "cohort_long.csv", long=True)
        cohort_page(rows, output_dir / "cohort.html")
        return
    # Without measurements, as of restored images, the table says what became of the studies.
    lines = [
        {"study": o.study, "status": o.status, "cause": r.cause} for o, r in zip(outcomes, rows, strict=True)
    ]
    _write_csv(output_dir / "cohort.csv", ("study", "status", "cause"), lines)


def _row(output_dir: Path, outcome: StudyOutcome) -> CohortRow:
    if outcome.status == "failed":
        return CohortRow(outcome.study, cause=_cause(output_dir, outcome))
    folder = safe_join(output_dir, outcome.study)
    measurements = folder / "measurements.json"
    content = json.loads(measurements.read_text(encoding="utf-8")) if measurements.is_file() else None
    report = f"{outcome.study}/report.html" if (folder / "report.html").is_file() else ""
    return CohortRow(outcome.study, content, report=report)


def _cause(output_dir: Path, outcome: StudyOutcome) -> str:
    stale = safe_join(output_dir, outcome.study).exists()
    return outcome.error + ("; its folder still holds earlier results, which do not count" if stale else "")


def _write_csv(path: Path, columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(path) as partial:
        partial.write_text(csv_text(lines, columns), encoding="utf-8")


def _show(
    output_dir: Path,
    outcomes: Sequence[StudyOutcome],
    failures: Sequence[Mapping[str, Any]],
    not_reached: Sequence[str],
    console: Console,
) -> None:
    for failure in failures[:_SHOWN]:
        line = f"FAILED {failure['study']} ({failure['stage']}): {failure['error']}"
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    if len(failures) > _SHOWN:
        console.print(f"... and {len(failures) - _SHOWN} more: {output_dir / 'failures.csv'}", soft_wrap=True)
    if not_reached:
        line = f"The disk is full: {len(not_reached)} studies were not begun; free space and run this again."
        console.print(line, style="bold red")
    done, total = len(outcomes) - len(failures), len(outcomes) + len(not_reached)
    console.print(f"{done} of {total} studies done; record: {output_dir / 'run.json'}", soft_wrap=True)
