"""Refused inputs are remembered while they are the same, and passing failures are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medvit.runs.outcome import StudyOutcome
from medvit.runs.refusals import TIME_LIMIT, WORKER_DIED, recall, remember
from medvit.studies import Series, Study

MADE_BY = {"bundle": "a", "settings": {"overlap": 0.5}}


def study_at(path: Path) -> Study:
    path.write_text("content")
    return Study("a", (Series((path,), "nifti"),))


def refused(stage: str = "read", code: str = "nifti-truncated") -> StudyOutcome:
    return StudyOutcome("a", status="failed", stage=stage, code=code, error="a.nii: ends early")


def test_a_refusal_is_recalled_for_the_same_files_and_bundle(tmp_path: Path) -> None:
    study = study_at(tmp_path / "a.nii")
    remember(tmp_path, study, MADE_BY, refused())
    assert recall(tmp_path, study, MADE_BY) == refused()
    assert recall(tmp_path, study, MADE_BY | {"bundle": "b"}) is None


def test_a_file_that_changed_is_tried_again(tmp_path: Path) -> None:
    study = study_at(tmp_path / "a.nii")
    remember(tmp_path, study, MADE_BY, refused())
    os.utime(tmp_path / "a.nii", (1, 1))
    assert recall(tmp_path, study, MADE_BY) is None
    (tmp_path / "a.nii").unlink()
    assert recall(tmp_path, study, MADE_BY) is None


@pytest.mark.parametrize(
    "outcome",
    [
        refused(code=WORKER_DIED),
        refused(code=TIME_LIMIT),
        refused(code="ValueError"),
        refused(stage="infer"),
        StudyOutcome("a"),
    ],
)
def test_what_is_not_the_inputs_fault_is_forgotten(tmp_path: Path, outcome: StudyOutcome) -> None:
    study = study_at(tmp_path / "a.nii")
    remember(tmp_path, study, MADE_BY, refused())
    remember(tmp_path, study, MADE_BY, outcome)
    assert recall(tmp_path, study, MADE_BY) is None


def test_a_damaged_note_is_no_refusal(tmp_path: Path) -> None:
    study = study_at(tmp_path / "a.nii")
    remember(tmp_path, study, MADE_BY, refused())
    (note,) = tmp_path.glob(".cohort/refused/*.json")
    note.write_text(note.read_text()[:40])
    assert recall(tmp_path, study, MADE_BY) is None
