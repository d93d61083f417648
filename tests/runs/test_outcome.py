"""The outcome of a study: its cause in one sentence, its verdict in a clause, its times added up."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.errors import StudyError
from medvit.runs import StudyOutcome


def test_the_cause_that_the_user_can_remedy_is_named_with_its_file() -> None:
    outcome = StudyOutcome("a")
    error = StudyError("nifti-truncated", "ends early", path=Path("/in/a.nii"), do="fetch it again")
    try:
        raise RuntimeError("transform failed") from error
    except RuntimeError as wrapper:
        outcome.fail(wrapper)
    assert outcome.error == "/in/a.nii: ends early; fetch it again (nifti-truncated)"
    assert (outcome.status, outcome.path, outcome.well) == ("failed", "/in/a.nii", False)


def test_an_error_of_the_system_names_its_file_too() -> None:
    outcome = StudyOutcome("a")
    outcome.fail(PermissionError(13, "Permission denied", "/in/Doe/a.nii"))
    assert (outcome.code, outcome.path) == ("PermissionError", "/in/Doe/a.nii")
    outcome.fail(ValueError("no file at all"))
    assert outcome.path == ""


@pytest.mark.parametrize(
    ("facts", "verdict", "well"),
    [
        ({}, "", True),
        ({"light": "amber", "finding": "Noise."}, "amber: Noise", True),
        ({"light": "red", "finding": "Cut."}, "red: Cut", False),
        ({"light": "green", "missing": {"dicom": "no UID"}}, "green; missing dicom: no UID", False),
    ],
)
def test_the_verdict_is_a_clause(facts: dict, verdict: str, well: bool) -> None:
    outcome = StudyOutcome("a", **facts)
    assert (outcome.verdict, outcome.well) == (verdict, well)


def test_stages_are_told_and_times_added_up() -> None:
    heard: list[tuple[str, str, str]] = []
    outcome = StudyOutcome("a", listener=lambda *told: heard.append(told))
    for _ in range(2):
        with outcome.timed("infer"):
            outcome.seconds["infer"] = outcome.seconds.get("infer", 0.0) + 1
    assert heard == [("a", "stage", "infer")] * 2 and outcome.stage == "infer"
    assert 2 <= outcome.seconds["infer"] < 3
    assert "listener" not in outcome.as_dict()
