"""Cohorts on one machine: bad studies cost themselves alone, and a resume redoes what does not count."""

import json
import time
from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.runs import read_status
from medvit.runs.done import DONE
from tests.runs.standin import StandIn, make_studies, run, starts, tree

GOOD = {f"good{i}": f"ok 0 {i}" for i in range(6)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort in which each kind of bad study stands among good ones, after its run."""
    folder = tmp_path_factory.mktemp("mixed")
    bad = {"poison": "kill", "hanging": "hang", "large": "memory", "broken": "corrupt", "quitting": "exit"}
    contents = dict(zip(GOOD, GOOD.values(), strict=True)) | bad | {"last": "ok 0 last"}
    work = StandIn(folder / "out")
    code = run(work, make_studies(folder / "in", contents), time_limit=2.0)
    assert code == 3
    return folder / "out"


def test_bad_studies_cost_themselves_alone(mixed: Path) -> None:
    record = json.loads((mixed / "run.json").read_text())
    assert [s["study"] for s in record["studies"] if s["status"] == "done"] == [*GOOD, "last"]
    assert {f["study"]: f["code"] for f in record["failures"]} == {
        "poison": "worker-died",
        "hanging": "time-limit",
        "large": "MemoryError",
        "broken": "nifti-truncated",
        "quitting": "RuntimeError",
    }
    causes = {f["study"]: f["error"] for f in record["failures"]}
    assert "exit code 7" in causes["poison"] and "set aside, as it cost 2 workers" in causes["poison"]
    assert "longer than 2 seconds" in causes["hanging"]
    assert causes["broken"].endswith("ends early; fetch it again (nifti-truncated)")


def test_attempts_are_bounded_and_only_made_where_they_may_help(mixed: Path) -> None:
    begun = starts(mixed)
    assert {study: begun.count(study) for study in set(begun)} == dict.fromkeys(GOOD, 1) | {
        "poison": 2, "hanging": 2, "large": 2, "broken": 1, "quitting": 1, "last": 1,
    }  # fmt: skip


def test_nothing_half_written_stays(mixed: Path) -> None:
    assert not list(mixed.glob(".partial*")) and not list(mixed.glob(".earlier*"))
    folders = {path.name for path in mixed.iterdir() if path.is_dir()} - {".cohort"}
    assert folders == {*GOOD, "last"}
    assert (mixed / "failures.csv").read_text().count("\n") == 6
    assert "poison,failed," in (mixed / "cohort.csv").read_text()


def test_status_after_the_end(mixed: Path) -> None:
    status = read_status(mixed)
    assert (status.state, status.total, status.done, status.waiting) == ("ended", 12, 7, 0)
    assert set(status.failed) == {"poison", "hanging", "large", "broken", "quitting"} and not status.running
    assert "FAILED poison" in str(status) and status.as_dict()["per_hour"] > 0


def test_resume_redoes_exactly_what_does_not_count(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work, found = StandIn(tmp_path / "out"), make_studies(tmp_path / "in", GOOD)
    assert run(work, found) == 0
    before, times = tree(work.output_dir), len(starts(work.output_dir))
    make_studies(tmp_path / "in", {"good0": "ok 0 another"})
    (work.output_dir / "good1" / "labels.bin").write_bytes(b"cut")
    (work.output_dir / "good2" / DONE).unlink()
    (work.output_dir / ".partial-good3").mkdir()
    capfd.readouterr()
    assert run(work, found) == 0
    said = capfd.readouterr().err
    assert sorted(starts(work.output_dir)[times:]) == ["good0", "good1", "good2"]
    assert "Resuming: 3 done, 3 to do." in said
    assert "again: good0: its input changed" in said
    assert "again: good1: labels.bin is damaged or gone" in said
    assert "again: good2: it was not finished" in said
    after = tree(work.output_dir)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {
        "good0/labels.bin", "good0/more/values.txt", f"good0/{DONE}", ".partial-good3",
    }  # fmt: skip


def test_changed_settings_redo_all_and_nothing_is_redone_twice(tmp_path: Path) -> None:
    found = make_studies(tmp_path / "in", GOOD)
    for setting, begun in (("a", 6), ("a", 6), ("b", 12)):
        assert run(StandIn(tmp_path / "out", setting), found) == 0
        assert len(starts(tmp_path / "out")) == begun
    assert run(StandIn(tmp_path / "out", "b"), found, resume=False) == 0
    assert len(starts(tmp_path / "out")) == 18


def test_a_failed_redo_says_that_earlier_results_do_not_count(tmp_path: Path) -> None:
    work = StandIn(tmp_path / "out")
    assert run(work, make_studies(tmp_path / "in", {"a": "ok 0 a", "b": "ok 0 b"})) == 0
    assert run(work, make_studies(tmp_path / "in", {"a": "corrupt", "b": "ok 0 b"})) == 3
    (failure,) = json.loads((work.output_dir / "run.json").read_text())["failures"]
    assert "earlier results, which do not count" in failure["error"]


def test_a_full_disk_ends_the_run_without_a_done_mark(tmp_path: Path) -> None:
    contents = {"a": "ok 0 a", "b": "full", "c": "ok 0 c", "d": "ok 0 d"}
    work = StandIn(tmp_path / "out")
    assert run(work, make_studies(tmp_path / "in", contents), workers=1) == 3
    record = json.loads((work.output_dir / "run.json").read_text())
    assert [f["code"] for f in record["failures"]] == ["disk-full"]
    assert "free space, then resume" in record["failures"][0]["error"]
    assert record["not_reached"] == ["c", "d"]
    assert not (work.output_dir / "b").exists()
    assert run(work, make_studies(tmp_path / "in", contents | {"b": "ok 0 b"}), workers=1) == 0


def test_workers_that_cannot_begin_end_the_run_in_a_sentence(tmp_path: Path) -> None:
    work = StandIn(tmp_path / "out", fit=False)
    with pytest.raises(MedvitError, match="cannot begin: do not fit"):
        run(work, make_studies(tmp_path / "in", GOOD))


def test_workers_that_are_all_lost_end_the_run(tmp_path: Path) -> None:
    work = StandIn(tmp_path / "out")
    with pytest.raises(MedvitError, match="every worker was lost"):
        run(work, make_studies(tmp_path / "in", {f"s{i}": "kill" for i in range(9)}))


def test_results_within_the_input_are_no_studies(tmp_path: Path) -> None:
    found = make_studies(tmp_path / "data", {"a": "ok 0 a"})
    results = make_studies(tmp_path / "data" / "out" / "a", {"result": "ok 0 r"})
    both = type(found)(found.studies + results.studies)
    assert run(StandIn(tmp_path / "data" / "out"), both) == 0
    assert starts(tmp_path / "data" / "out") == ["a"]


def test_nothing_to_do(tmp_path: Path) -> None:
    assert run(StandIn(tmp_path / "out"), make_studies(tmp_path / "in", {})) == 2
    with pytest.raises(MedvitError, match="no journal"):
        read_status(tmp_path / "out")


def test_status_needs_neither_torch_nor_monai(mixed: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from medvit.cli.app import app; app(['status', sys.argv[1]], standalone_mode=False); "
        "assert not {'torch', 'monai', 'numpy'} & set(sys.modules)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(mixed)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "7 of 12 done" in done.stdout
    assert time.monotonic() - started < 30
