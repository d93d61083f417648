"""One attempt at one study: made once, kept while input and settings are the same, and never lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.runs.claims import claim
from medvit.runs.outcome import StudyOutcome
from medvit.runs.work import attempt, clear_failed, clear_lost, finished, note_verdict
from medvit.studies import Series, Study, done_mark
from tests.runs.standin import StandIn, starts


def study(folder: Path, content: str = "ok", name: str = "a") -> Study:
    file = folder / f"{name}.txt"
    file.write_text(content)
    return Study(name, (Series((file,), "nifti"),))


def test_a_study_is_made_once_and_then_kept(tmp_path: Path) -> None:
    one, out = study(tmp_path), tmp_path / "out"
    first, second = attempt(StandIn(out), one), attempt(StandIn(out), one)
    assert (first.state, second.state) == ("made", "kept")
    assert first.outcome.status == second.outcome.status == "done"
    assert second.outcome.outputs == ["labels.bin", "more/values.txt"]
    assert second.outcome.inputs == first.outcome.inputs
    assert starts(out) == ["a"]


def test_other_settings_or_another_input_make_it_anew(tmp_path: Path) -> None:
    one, out = study(tmp_path), tmp_path / "out"
    attempt(StandIn(out), one)
    assert attempt(StandIn(out, "b"), one).state == "made"
    assert attempt(StandIn(out, "b"), study(tmp_path, "ok 0 more")).state == "made"
    assert attempt(StandIn(out, "b"), study(tmp_path, "ok 0 more")).state == "kept"
    assert starts(out) == ["a", "a", "a"]


def test_a_study_that_another_process_has_is_left_to_it(tmp_path: Path) -> None:
    one, out = study(tmp_path), tmp_path / "out"
    with claim(out, "a"):
        assert attempt(StandIn(out), one).state == "busy"
        clear_lost(out, "a")
    assert not (out / "a").exists()
    assert attempt(StandIn(out), one).state == "made"


def test_any_failure_becomes_the_outcome_of_its_study(tmp_path: Path) -> None:
    out, heard = tmp_path / "out", []
    tried = {}
    for kind in ("corrupt", "memory", "exit", "full"):
        done = attempt(StandIn(out), study(tmp_path, kind, kind), lambda *said: heard.append(said))
        assert done.state == "made" and done.outcome.status == "failed"
        assert not (out / kind).exists(), "nothing half-written stays"
        tried[kind] = done.outcome
    assert tried["corrupt"].stage == "read"
    assert tried["exit"].error == "RuntimeError: the study ended its worker"
    assert {said[0] for said in heard} >= {"corrupt", "memory", "full"}


def test_results_of_a_study_that_failed_are_voided_where_the_disk_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, work = study(tmp_path), StandIn(tmp_path / "out")
    attempt(work, one)
    with monkeypatch.context() as full:

        def refuse(*_: object) -> None:
            raise MedvitError("done.json cannot be written: No space left on device")

        full.setattr(done_mark, "write_json", refuse)
        clear_failed(work.output_dir, "a", work.made_by())
    assert attempt(work, one).state == "kept"
    clear_failed(work.output_dir, "a", work.made_by())
    assert attempt(work, one).state == "made"
    assert done_mark.read_mark(work.output_dir / "a").get("void") is None


def test_the_verdict_of_a_finished_study_is_that_of_its_file(tmp_path: Path) -> None:
    outcome = StudyOutcome("a")
    note_verdict(outcome, tmp_path)
    assert (outcome.light, outcome.volumes_ml) == ("", {})
    content = {
        "quality": {
            "light": "amber",
            "flags": [{"level": "info", "seen": "x"}, {"level": "warning", "seen": "Thick slices."}],
        },
        "structures": [{"name": "thalamus", "volume_ml": 7.5}],
    }
    (tmp_path / "measurements.json").write_text(json.dumps(content))
    note_verdict(outcome, tmp_path)
    assert (outcome.light, outcome.finding) == ("amber", "Thick slices.")
    assert outcome.volumes_ml == {"thalamus": 7.5}


def test_a_folder_without_a_mark_has_no_outputs(tmp_path: Path) -> None:
    found = finished(study(tmp_path), tmp_path)
    assert (found.outputs, found.missing, found.inputs, found.stage) == ([], {}, [], "write")
