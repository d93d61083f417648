"""What a person reads while a run goes on, where the output is not a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from medvit.runs import progress as module
from medvit.runs.outcome import StudyOutcome
from medvit.runs.progress import RunProgress


@pytest.fixture
def shown() -> tuple[RunProgress, io.StringIO]:
    text = io.StringIO()
    return RunProgress(Console(file=text, width=60), total=3), text


def test_each_study_that_ends_is_one_line_however_long(shown: tuple[RunProgress, io.StringIO]) -> None:
    progress, text = shown
    with progress:
        progress.show(StudyOutcome("a", seconds={"read": 1.0, "infer": 2.5}, light="green"), "done")
        progress.show(StudyOutcome("b", status="failed", error="b.nii: " + "word " * 40), "refused")
        progress.show(StudyOutcome("c"), "kept")
    first, second = text.getvalue().splitlines()
    assert first.startswith("[1/3] done a: 3.5 s")
    assert second.startswith("[2/3] refused b: b.nii: word word")
    assert (progress.ended, progress.failed) == (3, 1)


def test_a_retry_ends_nothing(shown: tuple[RunProgress, io.StringIO]) -> None:
    progress, text = shown
    progress.show(StudyOutcome("a", status="failed", error="the worker died"), "retry")
    assert progress.ended == progress.failed == 0
    assert "retry a: the worker died" in text.getvalue()


def test_names_with_brackets_are_no_markup(shown: tuple[RunProgress, io.StringIO]) -> None:
    progress, text = shown
    progress.listen("[red]a[/red]", "note", "see [bold]")
    assert text.getvalue() == "[red]a[/red]: see [bold]\n"


def test_reading_is_said_once_and_windows_now_and_then(
    shown: tuple[RunProgress, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, text = shown
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    for _ in range(2):
        progress.listen("a", "stage", "read")
    progress.listen("a", "stage", "infer")
    for done in range(1, 31):
        now += 1.0
        progress.window(done, 30)
    assert text.getvalue().splitlines() == [
        "a: reading", "a: 10 of 30 windows", "a: 20 of 30 windows", "a: 30 of 30 windows"
    ]  # fmt: skip
