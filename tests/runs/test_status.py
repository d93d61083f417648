"""What `medvit status` makes of a journal, whole or torn."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from medvit.runs import Journal, read_status


def _begin(journal: Journal, total: int, pid: int | None = None) -> None:
    journal.note("begin", host=socket.gethostname(), pid=pid or os.getpid(), total=total, made_by={})


def test_a_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, worker = Journal(tmp_path), Journal(tmp_path)
    start = time.time()
    clock = iter(start + s for s in (-100, -100, -90, -50, -45, -20, -19, 0, 0))
    monkeypatch.setattr(time, "time", lambda: next(clock, start))
    _begin(run, 10)
    run.note("planned", kept=["k0", "k1"])
    worker.note("started", study="a")
    run.note("done", study="a", seconds={})
    worker.note("started", study="b")
    run.note("failed", study="b", stage="read", code="x", error="ends early")
    worker.note("started", study="c")
    status = read_status(tmp_path)
    assert (status.state, status.total, status.done, status.waiting) == ("running", 10, 3, 5)
    assert status.failed == {"b": "ends early"}
    assert status.running["c"] == pytest.approx(19, abs=0.2)
    assert status.per_hour == pytest.approx(72, abs=0.5)  # two in 100 s; what was kept took none
    assert status.seconds_left == pytest.approx(300, abs=1)  # six to come
    assert "running: 3 of 10 done, 1 running, 1 failed, 5 waiting" in str(status)
    assert json.loads(json.dumps(status.as_dict()))["waiting"] == 5


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    run = Journal(tmp_path)
    _begin(run, 2)
    run.note("done", study="a", seconds={})
    with run.path.open("ab") as file:
        file.write(b'{"time": 1, "event": "do')
    assert read_status(tmp_path).done == 1


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    run = Journal(tmp_path)
    _begin(run, 2, pid=2**22 + 1)
    run.note("started", study="a")
    status = read_status(tmp_path)
    assert (status.state, status.running, status.waiting) == ("interrupted", {}, 2)


def test_a_later_run_forgets_the_failures_that_it_tries_again(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    _begin(first, 1)
    first.note("failed", study="a", error="no memory")
    first.note("end", exit_code=3)
    assert read_status(tmp_path).failed == {"a": "no memory"}
    second = Journal(tmp_path)
    _begin(second, 1)
    second.note("planned", kept=[])
    assert read_status(tmp_path).failed == {}
    second.note("done", study="a", seconds={})
    second.note("end", exit_code=0)
    status = read_status(tmp_path)
    assert (status.state, status.done, status.failed) == ("ended", 1, {})
