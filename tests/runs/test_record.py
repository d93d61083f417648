"""The record: what is said at the end of a run, and what its tables tell of a failure."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from medvit.errors import StudyError
from medvit.runs import StudyOutcome
from medvit.runs.record import RunFacts, failures_in, show_summary, write_record
from medvit.studies import Found


def failed(study: str, code: str, path: Path) -> StudyOutcome:
    outcome = StudyOutcome(study)
    outcome.fail(StudyError(code, "is broken", path=path, do="fetch it again"))
    return outcome


def test_the_tables_name_a_failure_by_its_id_and_the_record_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "Doe John" / "IM 1"
    write_record(
        tmp_path, [failed("CT-1", "dicom-broken", path)], Found(), RunFacts({"bundle": "b"}, time.time(), 3)
    )
    sentence = f"{path}: is broken; fetch it again (dicom-broken)"
    assert failures_in(tmp_path) == {"CT-1": sentence}
    (row,) = csv.DictReader((tmp_path / "failures.csv").open())
    assert row["error"] == sentence
    (row,) = csv.DictReader((tmp_path / "cohort.csv").open())
    assert row["cause"] == "CT-1: is broken; fetch it again (dicom-broken)"
    assert "Doe" not in (tmp_path / "cohort.html").read_text()


def test_runs_are_appended_and_lost_results_leave_the_record(tmp_path: Path) -> None:
    facts = RunFacts({"bundle": "b"}, time.time(), 0)
    write_record(tmp_path, [StudyOutcome("gone"), failed("bad", "x-y", tmp_path)], Found(), facts)
    write_record(tmp_path, [failed("other", "x-y", tmp_path)], Found(), facts)
    content = json.loads((tmp_path / "run.json").read_text())
    assert [study["study"] for study in content["studies"]] == ["bad", "other"]
    assert [study["run"] for study in content["studies"]] == [1, 2] and len(content["runs"]) == 2


@pytest.mark.parametrize(
    ("total", "sentence"),
    [
        (1, "The disk is full. Free space, then resume."),
        (4, "The disk is full; studies that were not begun: 3. Free"),
    ],
)
def test_a_full_disk_says_what_was_not_begun(
    total: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_summary(tmp_path, [failed("a", "disk-full", tmp_path)], total)
    said = capsys.readouterr().out
    assert sentence in said and f"0 of {total} studies done" in said
