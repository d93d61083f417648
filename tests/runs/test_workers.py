"""Cohorts on one machine: bad studies cost themselves alone, and a resume redoes what does not count."""

import json
import re
import signal
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
from rich.console import Console

from medvit.errors import MedvitError
from medvit.runs import RunPlan, attempt, read_status, workers
from medvit.runs.journal import living_runs, read_events
from medvit.runs.progress import RunProgress
from medvit.studies import Found
from medvit.studies.done_mark import DONE
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
    (work.output_dir / "good1" / "labels.bin").write_bytes(b"cut")
    (work.output_dir / "good2" / DONE).write_text("{ torn")
    (work.output_dir / ".partial-good3").mkdir()
    capfd.readouterr()
    assert run(work, found) == 0
    said = capfd.readouterr().err
    assert sorted(starts(work.output_dir)[times:]) == ["good1", "good2"]
    assert "Resuming: 4 done, 2 to do." in said
    assert "again: good1: labels.bin is damaged or missing" in said
    assert "again: good2: it was not finished" in said
    assert {name for name, digest in tree(work.output_dir).items() if before.get(name) != digest} <= {
        ".partial-good3"
    }


def test_results_of_another_input_are_only_overwritten_when_that_is_asked_for(tmp_path: Path) -> None:
    work, found = StandIn(tmp_path / "out"), make_studies(tmp_path / "in", {"a": "ok 0 a", "b": "ok 0 b"})
    assert run(work, found) == 0
    before = tree(work.output_dir)
    make_studies(tmp_path / "in", {"a": "ok 0 of another patient"})
    for resume in (True, False):
        assert run(work, found, resume=resume) == 3
        record = json.loads((work.output_dir / "run.json").read_text())
        (failure,) = record["failures"]
        assert failure["study"] == "a" and "holds results of another input" in failure["error"]
        assert "--overwrite" in failure["error"]
        assert {s["study"]: s["status"] for s in record["studies"]} == {"a": "done", "b": "done"}
        assert tree(work.output_dir) == before
    assert run(work, found, overwrite=True) == 0
    assert tree(work.output_dir)["a/labels.bin"] != before["a/labels.bin"]
    assert starts(work.output_dir).count("a") == 2


def test_a_folder_that_no_run_has_made_is_never_replaced(tmp_path: Path) -> None:
    work, found = StandIn(tmp_path / "out"), make_studies(tmp_path / "in", {"a": "ok 0 a", "b": "ok 0 b"})
    own = work.output_dir / "a" / "thesis.txt"
    own.parent.mkdir(parents=True)
    own.write_text("years of work")
    (work.output_dir / "b").write_text("a file")
    assert run(work, found) == 3
    causes = {
        f["study"]: f["error"] for f in json.loads((work.output_dir / "run.json").read_text())["failures"]
    }
    assert "files that no run has made" in causes["a"] and "is a file where" in causes["b"]
    assert own.read_text() == "years of work" and not starts(work.output_dir)


def test_records_of_other_studies_are_kept(tmp_path: Path) -> None:
    work = StandIn(tmp_path / "out")
    assert run(work, make_studies(tmp_path / "in", {"a": "ok 0 a", "bad": "corrupt"})) == 3
    first = json.loads((work.output_dir / "run.json").read_text())
    assert run(work, make_studies(tmp_path / "in", {"a": "ok 0 a", "b": "ok 0 b"})) == 0
    record = json.loads((work.output_dir / "run.json").read_text())
    assert [s["study"] for s in record["studies"]] == ["a", "bad", "b"]
    assert record["studies"][0] == first["studies"][0], "a study that is kept keeps its times"
    assert [s["run"] for s in record["studies"]] == [1, 1, 2]
    assert [f["study"] for f in record["failures"]] == ["bad"]
    assert [(r["studies"], r["kept"], r["exit_code"]) for r in record["runs"]] == [
        (["a", "bad"], [], 3), (["a", "b"], ["a"], 0),
    ]  # fmt: skip
    cause = record["failures"][0]["error"].replace(record["studies"][1]["path"], "bad")
    assert cause.startswith("bad: ") and (work.output_dir / "cohort.csv").read_text().splitlines()[1:] == [
        "a,done,,,,", f"bad,failed,,,{cause},", "b,done,,,,",
    ]  # fmt: skip


def test_input_that_was_refused_is_not_tried_again_until_it_changes(tmp_path: Path) -> None:
    work, contents = StandIn(tmp_path / "out"), {"a": "ok 0 a", "bad": "corrupt"}
    found = make_studies(tmp_path / "in", contents)
    for _ in range(2):
        assert run(work, found) == 3
        assert [f["code"] for f in json.loads((work.output_dir / "run.json").read_text())["failures"]] == [
            "nifti-truncated"
        ]
    assert starts(work.output_dir).count("bad") == 1
    assert run(work, found, resume=False) == 3
    assert starts(work.output_dir).count("bad") == 2
    assert run(work, make_studies(tmp_path / "in", contents | {"bad": "ok 0 mended"})) == 0


@pytest.mark.parametrize("name", ["run.json", "cohort.html", "Cohort", ".cohort", "cohort.csv", ".partial-a"])
def test_ids_of_the_record_itself_are_refused_at_the_start(name: str, tmp_path: Path) -> None:
    found = make_studies(tmp_path / "in", {"a": "ok 0 a", name: "ok 0 b"})
    with pytest.raises(MedvitError, match=f"'{re.escape(name)}' is reserved"):
        run(StandIn(tmp_path / "out"), found)
    assert not starts(tmp_path / "out") and not (tmp_path / "out").exists()


def test_a_time_limit_names_the_stage_that_ran(mixed: Path) -> None:
    failures = {f["study"]: f for f in json.loads((mixed / "run.json").read_text())["failures"]}
    assert failures["hanging"]["stage"] == "infer"
    assert "longer than 2 seconds and was stopped in stage 'infer'" in failures["hanging"]["error"]


def test_input_is_read_once_and_not_before_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        if path.suffix == ".nii":
            read.append(path.stem)
        return "digest"

    monkeypatch.setattr("medvit.runs.done.sha256_of", counted)
    found = make_studies(tmp_path / "in", GOOD)
    plan = RunPlan.of(tmp_path / "out", {}, found.studies, RunProgress(Console(), 6))
    assert len(plan.to_do) == 6 and not read
    work = StandIn(tmp_path / "out")
    for study in found.studies:
        assert attempt(work, study).outcome.status == "done"
    assert sorted(read) == sorted(GOOD)


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
    changed = make_studies(tmp_path / "in", {"a": "corrupt", "b": "ok 0 b"})
    assert run(work, changed, overwrite=True) == 3
    (failure,) = json.loads((work.output_dir / "run.json").read_text())["failures"]
    assert "earlier results, which are not valid" in failure["error"]


def test_a_full_disk_ends_the_run_without_a_done_mark(tmp_path: Path) -> None:
    contents = {"a": "ok 0 a", "b": "full", "c": "ok 0 c", "d": "ok 0 d"}
    work = StandIn(tmp_path / "out")
    assert run(work, make_studies(tmp_path / "in", contents), workers=1) == 3
    record = json.loads((work.output_dir / "run.json").read_text())
    assert [f["code"] for f in record["failures"]] == ["disk-full"]
    assert "free space, then resume" in record["failures"][0]["error"]
    assert record["runs"][0]["not_reached"] == ["c", "d"]
    assert not (work.output_dir / "b").exists()
    assert run(work, make_studies(tmp_path / "in", contents | {"b": "ok 0 b"}), workers=1) == 0


def test_workers_that_cannot_begin_end_the_run_in_a_sentence(tmp_path: Path) -> None:
    work = StandIn(tmp_path / "out", fit=False)
    with pytest.raises(MedvitError, match="cannot begin: do not fit"):
        run(work, make_studies(tmp_path / "in", GOOD))
    # It has ended, so that a run with other settings may fill the folder.
    assert living_runs(work.output_dir, read_events(work.output_dir)) == []


def test_workers_that_are_all_lost_end_the_run(tmp_path: Path) -> None:
    work = StandIn(tmp_path / "out")
    with pytest.raises(MedvitError, match="every worker was lost"):
        run(work, make_studies(tmp_path / "in", {f"s{i}": "kill" for i in range(9)}))


def test_results_are_never_studies(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, work = tmp_path / "data", StandIn(tmp_path / "data" / "out")
    found = make_studies(data, {"a": "ok 0 a"})
    assert run(work, found) == 0
    inside = make_studies(data / "out" / "a" / "dicom", {"result": "ok 0 r"})
    beside = make_studies(data / "elsewhere" / "x", {"image": "ok 0 r"})
    (data / "elsewhere" / "x" / DONE).write_text((data / "out" / "a" / DONE).read_text())
    all_found = Found(found.studies + inside.studies + beside.studies)
    assert run(work, all_found) == 0
    assert starts(work.output_dir) == ["a"]
    said = capfd.readouterr().err
    assert "result.nii: lies in the output folder" in said
    assert "image.nii: is a result of an earlier run" in said
    # To work on a result of another run, one names it.
    assert run(StandIn(tmp_path / "new"), beside, named=[str(data / "elsewhere" / "x" / "image.nii")]) == 0
    assert starts(tmp_path / "new") == ["image"]


def test_another_bundle_does_not_replace_results(tmp_path: Path) -> None:
    class Named(StandIn):
        def made_by(self) -> dict[str, str]:
            return {"bundle": self.setting}

    found = make_studies(tmp_path / "in", {"a": "ok 0 a"})
    for bundle, code in (("brain 1.0", 0), ("liver 1.0", 3), ("brain 2.0", 0)):
        work = Named(tmp_path / "out", bundle)
        plan = RunPlan.of(work.output_dir, work.made_by(), found.studies, RunProgress(Console(), 1))
        assert bool(plan.refused) == (code == 3)
        for study in plan.to_do:
            attempt(work, study)


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


def test_the_fork_server_starts_deaf_to_interruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: heard.append(signal.getsignal(signal.SIGINT)))
    before = signal.getsignal(signal.SIGINT)
    workers._start_fork_server()
    assert heard == [signal.SIG_IGN] and signal.getsignal(signal.SIGINT) == before
    elsewhere = threading.Thread(target=workers._start_fork_server)  # where no handler can be set
    elsewhere.start()
    elsewhere.join()
    assert heard == [signal.SIG_IGN, before]
