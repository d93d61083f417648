"""A cohort over a real Dask scheduler and workers on this machine, one of which is killed."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.runs import ClusterExecutor, run_work
from medvit.runs.cluster import attempt_on_cluster
from tests.runs.standin import StandIn, make_studies, run, starts, tree

pytest.importorskip("distributed", reason="needs medvit[cluster]")
_ROOT = Path(__file__).parents[2]


def _dask(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + str(arguments[0]), *map(str, arguments[1:])],
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        stderr=subprocess.DEVNULL,
    )


def _worker(address_file: Path, *options: str) -> subprocess.Popen:
    return _dask(
        "worker", "--scheduler-file", address_file, "--no-nanny", "--nthreads", 1, "--no-dashboard", *options
    )


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Path, list[subprocess.Popen]]]:
    """Address of a scheduler, the file that says it, and its workers, of which the first has a GPU."""
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    scheduler = _dask(
        "scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file
    )
    while not file.exists():
        time.sleep(0.1)
    workers = [_worker(file, "--resources", "GPU=1")]
    yield json.loads(file.read_text())["address"], file, workers
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


def test_studies_go_to_workers_with_the_resource(
    tmp_path: Path, cluster: tuple[str, Path, list[subprocess.Popen]]
) -> None:
    address = cluster[0]
    work = StandIn(tmp_path / "out")
    found = make_studies(tmp_path / "in", {"a": "ok 0 a", "b": "ok 0 b"})
    assert run_work(work, found, lambda _: ClusterExecutor(work, address, resources={"GPU": 1})) == 0
    executor = ClusterExecutor(work, address, resources={"TPU": 1})
    future = executor.submit(found.studies[0])
    time.sleep(1.0)
    assert not future.done(), "no worker has what the study needs"
    executor.close()


@pytest.mark.parametrize(
    ("studies", "bad"),
    [(6, {}), pytest.param(16, {"poison": "kill", "hanging": "hang"}, marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_a_lost_worker_costs_no_study(
    tmp_path: Path, cluster: tuple[str, Path, list[subprocess.Popen]], studies: int, bad: dict[str, str]
) -> None:
    address, file, workers = cluster
    workers.append(_worker(file))
    contents = {f"s{i:02}": f"ok 0.3 {i}" for i in range(studies)} | bad
    found, output = make_studies(tmp_path / "in", contents), tmp_path / "out"
    work = StandIn(output)

    class Killing(ClusterExecutor):
        """Kills a Dask worker once a third of the studies was begun."""

        def submit(self, study):  # type: ignore[no-untyped-def]
            if len(starts(output)) >= len(contents) // 3 and workers[-1].poll() is None:
                workers[-1].kill()
            return super().submit(study)

    code = 3 if bad else 0
    assert run_work(work, found, lambda _: Killing(work, address, 5.0)) == code
    assert workers[-1].wait(10) < 0
    assert run(StandIn(tmp_path / "alone"), found, time_limit=5.0) == code
    assert tree(output) == tree(tmp_path / "alone")
    begun = Counter(starts(output))
    # Only what the killed worker was at may have been begun anew.
    assert sum(begun[study] - 1 for study in contents if contents[study].startswith("ok")) <= 1
    assert all(begun[study] == 2 for study in bad)


def test_no_scheduler_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvit.runs.cluster.CONNECT_SECONDS", 1.0)
    with pytest.raises(MedvitError, match="no Dask scheduler answers"):
        ClusterExecutor(StandIn(tmp_path), "tcp://127.0.0.1:9")


def test_a_worker_that_may_not_start_processes_says_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study,) = make_studies(tmp_path / "in", {"a": "ok 0 a"}).studies
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    attempt = attempt_on_cluster(StandIn(tmp_path / "out"), None, study)
    assert attempt.state == "unfit" and "--no-nanny" in attempt.outcome.error
