"""The journal: who is at work, and how far each study is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvit.runs import journal as module
from medvit.runs.journal import JOURNAL, Journal, last_stage, living_runs, read_events


def begin(journal: Journal, pid: int, host: str | None = None) -> None:
    journal.note("begin", pid=pid, host=host or module.socket.gethostname())


def test_events_of_all_processes_in_order_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    assert first.path != second.path
    for moment, journal, study in ((3.0, first, "c"), (1.0, second, "a"), (2.0, first, "b")):
        monkeypatch.setattr(module.time, "time", lambda moment=moment: moment)
        journal.note("started", study=study)
    assert [event["study"] for event in read_events(tmp_path)] == ["a", "b", "c"]


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note("started", study="Jörg")
    with journal.path.open("ab") as file:
        file.write(json.dumps({"time": 1, "event": "done"}).encode()[:-4])
    assert [event["study"] for event in read_events(tmp_path)] == ["Jörg"]


def test_only_runs_whose_process_lives_are_alive(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive, ended, killed = Journal(tmp_path), Journal(tmp_path), Journal(tmp_path)
    begin(alive, os.getpid())
    begin(ended, os.getpid())
    ended.note("end")
    begin(killed, dead.pid)
    assert [event["file"] for event in living_runs(tmp_path, read_events(tmp_path))] == [alive.path.name]


def test_a_run_on_another_machine_lives_while_its_file_is_touched(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    begin(journal, 1, host="elsewhere")
    assert living_runs(tmp_path, read_events(tmp_path))
    old = time.time() - 3600
    os.utime(tmp_path / JOURNAL / journal.path.name, (old, old))
    assert not living_runs(tmp_path, read_events(tmp_path))


def test_the_heart_beats_for_the_duration_of_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.01)
    journal = Journal(tmp_path)
    journal.note("begin")
    os.utime(journal.path, (0, 0))
    with journal.beating():
        limit = time.monotonic() + 10
        while journal.path.stat().st_mtime == 0 and time.monotonic() < limit:
            time.sleep(0.01)
    assert journal.path.stat().st_mtime > 0


def test_a_journal_that_cannot_be_written_stops_no_study(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.path.mkdir()
    journal.note("started", study="a")
    assert list(journal.path.iterdir()) == []


def test_the_last_stage_of_a_study(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note("started", study="a", stage="reading")
    journal.note("stage", study="b", stage="inference")
    journal.note("stage", study="a", stage="writing")
    journal.note("done", study="a")
    assert last_stage(tmp_path, "a") == "writing"
    assert last_stage(tmp_path, "c") == ""
