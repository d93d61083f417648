"""Workers on several machines, through a Dask scheduler; all see the same input and output folders."""

from __future__ import annotations

import contextlib
import multiprocessing
import secrets
import threading
from asyncio import CancelledError
from concurrent.futures import Future
from typing import Any

from medvit.errors import MedvitError, MissingExtraError
from medvit.runs.outcome import StudyOutcome
from medvit.runs.refusals import WORKER_DIED
from medvit.runs.work import Attempt, Work
from medvit.runs.workers import Worker, lost
from medvit.studies import Study

CONNECT_SECONDS = 30.0


class ClusterExecutor:
    """The workers of a Dask scheduler.

    Each Dask worker has the studies done by a process of its own, as on one machine, so that a study that
    crashes or hangs costs no Dask worker. When a Dask worker is lost, Dask gives its study to another one; a
    study that was done meanwhile is recognised by its done mark.

    Parameters
    ----------
    work, time_limit
        Same as in `medvit.runs.workers.Worker`.
    address
        Address of the scheduler, such as ``"tcp://host:8786"``.
    resources
        Resources that a study needs of a Dask worker, such as ``{"GPU": 1}``.

    Raises
    ------
    MissingExtraError
        If Dask is not installed.
    MedvitError
        If no scheduler answers.
    """

    def __init__(
        self,
        work: Work,
        address: str,
        time_limit: float | None = None,
        resources: dict[str, float] | None = None,
    ) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise MissingExtraError("a cohort on several machines", "cluster") from None
        try:
            self._client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise MedvitError(f"no Dask scheduler answers at {address} ({error})") from error
        self._work, self._time_limit, self._resources = work, time_limit, resources
        self._running: set[Any] = set()

    @property
    def capacity(self) -> int:
        """Number of studies to hand out at once: twice that of the workers, so that none has to wait."""
        return max(2, 2 * sum(self._client.nthreads().values()))

    def submit(self, study: Study) -> Future[Attempt]:
        """Let the next free worker process `study`."""
        task = self._client.submit(
            attempt_on_cluster,
            self._work,
            self._time_limit,
            study,
            key=f"{study.id}-{secrets.token_hex(6)}",
            pure=False,
            resources=self._resources,
        )
        result: Future[Attempt] = Future()
        self._running.add(task)  # Dask drops a task to which nothing refers

        def settle(task: Any) -> None:
            self._running.discard(task)
            try:
                result.set_result(task.result())
            except (Exception, CancelledError) as error:
                result.set_result(lost(study, WORKER_DIED, f"was lost by the cluster ({error})"))

        task.add_done_callback(settle)
        return result

    def close(self) -> None:
        """Leave the scheduler; studies that were handed out and not begun are taken back."""
        self._client.cancel(list(self._running))
        with contextlib.suppress(OSError, TimeoutError):
            self._client.run(release, _kind(self._work, self._time_limit), on_error="ignore")
        self._client.close()


_lock = threading.Lock()
_idle: dict[str, list[Worker]] = {}


def attempt_on_cluster(work: Work, time_limit: float | None, study: Study) -> Attempt:
    """In a Dask worker: process `study` in a process that stays for further studies of the same run."""
    if multiprocessing.current_process().daemon:
        outcome = StudyOutcome(study.id)
        outcome.fail(MedvitError("a Dask worker may not start processes; start it with --no-nanny"))
        return Attempt(outcome, "unfit")
    with _lock:
        idle = _idle.setdefault(_kind(work, time_limit), [])
        worker = idle.pop() if idle else None
    worker = worker or Worker(work, time_limit)
    try:
        return worker.attempt(study)
    finally:
        with _lock:
            idle.append(worker)


def release(kind: str) -> None:
    """In a Dask worker: end the processes that wait for further studies of a run."""
    with _lock:
        idle = _idle.pop(kind, [])
    for worker in idle:
        worker.close()


def _kind(work: Work, time_limit: float | None) -> str:
    return f"{work!r} {time_limit}"
