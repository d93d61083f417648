"""The record of an output folder: outcome of each study over all runs, tables and page."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.table import Table

from medvit import __version__
from medvit.reports.cohort import CohortRow, cohort_page, write_cohort_csv
from medvit.reports.tables import csv_text
from medvit.runs.outcome import StudyOutcome
from medvit.runs.plan import FAILURES, LONG_TABLE, OTHER_RESULTS, PAGE, RECORD, TABLE
from medvit.studies import Found, atomic_path, safe_join, write_json
from medvit.studies.done_mark import DONE

# Version of the format of run.json.
SCHEMA = "2.0"
SOFTWARE = ("medvit", "monai", "torch", "numpy", "nibabel", "pydicom")
_SHOWN = 20
# Up to this many studies, the written files are listed.
_FEW = 3


@dataclass(frozen=True)
class RunFacts:
    """The facts of one run.

    Parameters
    ----------
    made_by
        Bundle, weights and settings.
    started
        Time at which it began, in seconds since 1970.
    exit_code
        Exit code with which it ends.
    kept
        Studies that an earlier run had finished.
    redone
        Studies whose earlier results were invalid, and why.
    """

    made_by: Mapping[str, Any]
    started: float
    exit_code: int
    kept: Collection[str] = ()
    redone: Mapping[str, str] | None = None

    def as_dict(self, outcomes: Sequence[StudyOutcome], found: Found) -> dict[str, Any]:
        """The entry of the run in ``run.json``."""
        known = {outcome.study for outcome in outcomes}
        began = datetime.datetime.fromtimestamp(self.started, datetime.UTC)
        return {
            "started": began.isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 3),
            "exit_code": self.exit_code,
            "made_by": dict(self.made_by),
            "software": software_versions(),
            "platform": {"python": platform.python_version(), "system": platform.system()},
            "studies": [outcome.study for outcome in outcomes],
            "kept": [outcome.study for outcome in outcomes if outcome.study in self.kept],
            "redone": dict(self.redone or {}),
            "not_reached": [s.id for s in found.studies if s.id not in known],
            "left_out": [{"path": str(thing.path), "why": thing.why} for thing in found.left_out],
        }


def write_record(output_dir: Path, outcomes: Sequence[StudyOutcome], found: Found, facts: RunFacts) -> None:
    """Add a run to ``run.json``; write ``failures.csv``, the tables ``cohort*.csv`` and ``cohort.html``.

    Records of earlier runs on other studies are kept, and so are the facts of a kept study.

    Parameters
    ----------
    outcomes
        Outcomes of all studies that were reached, in the order of the run.
    found
        Search that found the studies.
    """
    with FileLock(output_dir / ".cohort" / "record.lock"):
        earlier = _read(output_dir / RECORD)
        number = len(earlier["runs"]) + 1
        # Results may have been deleted since.
        studies = {
            s["study"]: s
            for s in earlier["studies"]
            if s["status"] == "failed" or (safe_join(output_dir, s["study"]) / DONE).is_file()
        }
        refused = [o for o in outcomes if o.code == OTHER_RESULTS]
        for outcome in outcomes:
            known = studies.get(outcome.study)
            same = known is not None and known["status"] == "done" and known["inputs"] == outcome.inputs
            if outcome.code != OTHER_RESULTS and not (outcome.study in facts.kept and same):
                studies[outcome.study] = outcome.as_dict() | {"run": number}
                studies[outcome.study]["error"] = _cause(output_dir, outcome)
        failed = [s for s in studies.values() if s["status"] == "failed"] + [o.as_dict() for o in refused]
        failures = [{key: s[key] for key in ("study", "stage", "code", "error")} for s in failed]
        content = {
            "schema_version": SCHEMA,
            "studies": list(studies.values()),
            "failures": failures,
            "runs": [*earlier["runs"], facts.as_dict(outcomes, found)],
        }
        write_json(output_dir / RECORD, content)
        with atomic_path(output_dir / FAILURES) as partial:
            partial.write_text(csv_text(failures, ("study", "stage", "code", "error")), encoding="utf-8")
        _write_tables(output_dir, list(studies.values()))


def failures_in(output_dir: Path) -> dict[str, str]:
    """Why each study of an output folder that has no results failed."""
    return {entry["study"]: entry["error"] for entry in _read(output_dir / RECORD).get("failures", ())}


def red_in(output_dir: Path) -> dict[str, str]:
    """First finding of each study of an output folder whose light is red."""
    studies = _read(output_dir / RECORD).get("studies", ())
    return {entry["study"]: entry["finding"] for entry in studies if entry["light"] == "red"}


def show_summary(
    output_dir: Path, outcomes: Sequence[StudyOutcome], total: int, *, interrupted: bool = False
) -> None:
    """Print the result of a run: figures of a single study, files of a few, and the number done of all."""
    console = Console()

    def say(line: str, style: str = "") -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True, style=style or None)

    done = [outcome for outcome in outcomes if outcome.status == "done"]
    if len(outcomes) == 1 and done and done[0].volumes_ml:
        console.print(_volume_table(done[0]))
    if len(outcomes) <= _FEW:
        for outcome in done:
            say(f"{outcome.study}: {outcome.verdict or 'done'}")
            for name in outcome.outputs:
                say(f"  {output_dir / outcome.study / name}")
    failures = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failures[:_SHOWN]:
        say(f"FAILED {outcome.study} ({outcome.stage}): {outcome.error}", "red")
    if len(failures) > _SHOWN:
        say(f"... and {len(failures) - _SHOWN} more: {output_dir / FAILURES}")
    if interrupted:
        say("Interrupted; finished studies are kept. Repeat the same command to continue.", "bold red")
    elif any(outcome.code == "disk-full" for outcome in failures):
        left = total - len(outcomes)
        unbegun = f"; studies that were not begun: {left}" if left else ""
        say(f"The disk is full{unbegun}. Free space, then resume.", "bold red")
    red = sum(outcome.light == "red" for outcome in done)
    incomplete = sum(bool(outcome.missing) for outcome in done)
    but = [f"{red} red" if red else "", f"{incomplete} without all outputs" if incomplete else ""]
    but_text = f" ({', '.join(filter(None, but))})" if any(but) else ""
    say(f"{len(done)} of {total} studies done{but_text}; record: {output_dir / RECORD}")


def software_versions() -> dict[str, str]:
    """Versions of the software that computes and writes results."""
    return {name: __version__ if name == "medvit" else version(name) for name in SOFTWARE}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    return content if content.get("schema_version") == SCHEMA else {"studies": [], "runs": []}


def _write_tables(output_dir: Path, studies: Sequence[Mapping[str, Any]]) -> None:
    rows = [_row(output_dir, study) for study in studies]
    write_cohort_csv(rows, output_dir / TABLE)
    write_cohort_csv(rows, output_dir / LONG_TABLE, long=True)
    cohort_page(rows, output_dir / PAGE)


def _row(output_dir: Path, study: Mapping[str, Any]) -> CohortRow:
    name = study["study"]
    if study["status"] == "failed":
        return CohortRow(name, cause=_without_path(study))
    folder = safe_join(output_dir, name)
    measurements = folder / "measurements.json"
    content = json.loads(measurements.read_text(encoding="utf-8")) if measurements.is_file() else None
    report = f"{name}/report.html" if (folder / "report.html").is_file() else ""
    missing = "; ".join(f"{output}: {why}" for output, why in study["missing"].items())
    return CohortRow(name, content, report=report, missing=missing)


def _without_path(study: Mapping[str, Any]) -> str:
    """The cause of a failure for a table that is passed on; the path of a scan may hold a patient's name."""
    path, name = study.get("path", ""), study["study"]
    return study["error"].replace(path, name) if path else study["error"]


def _cause(output_dir: Path, outcome: StudyOutcome) -> str:
    stale = outcome.status == "failed" and safe_join(output_dir, outcome.study).exists()
    return outcome.error + ("; its folder still holds earlier results, which are not valid" if stale else "")


def _volume_table(outcome: StudyOutcome) -> Table:
    table = Table(title=outcome.study)
    table.add_column("structure")
    table.add_column("ml", justify="right")
    for name, volume in outcome.volumes_ml.items():
        table.add_row(name, f"{volume:.2f}")
    return table
