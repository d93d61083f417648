"""Worker processes on this machine, which keep the network loaded and are replaced when they are lost."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import wait
from queue import SimpleQueue
from typing import cast

from pebble import ProcessExpired, ProcessPool

from medvit.errors import StudyError
from medvit.runs.done import Known, known_digests, learn_digests
from medvit.runs.journal import last_stage
from medvit.runs.options import SILENT
from medvit.runs.outcome import Stage, StudyOutcome
from medvit.runs.refusals import TIME_LIMIT, WORKER_DIED
from medvit.runs.work import Attempt, Work, attempt
from medvit.studies import Study

_PATIENCE = 1.0


class Worker:
    """A process that does one study at a time.

    Parameters
    ----------
    work
        Work to do; opened with the first study.
    time_limit
        Seconds that a study may take, including the loading of the network with a worker's first study;
        `None` for no limit.
    """

    def __init__(self, work: Work, time_limit: float | None = None) -> None:
        self.work = work
        self.time_limit = time_limit
        self._closed = False
        self._pool = self._new_pool()

    def attempt(self, study: Study) -> Attempt:
        """Process `study`; a crash or a hang of the process affects the outcome of this study alone."""
        if not self._closed and not self._pool.active:  # lost between two studies
            self._end()
            self._pool = self._new_pool()
        try:
            arguments = (study, known_digests(study))
            future = self._pool.schedule(_attempt, args=arguments, timeout=self.time_limit)
            # A stopped pool may leave a future pending for ever.
            while not wait_for([future], _PATIENCE).done:
                if self._closed:
                    raise CancelledError
            return future.result()
        except TimeoutError:
            what = f"took longer than {self.time_limit:g} seconds and was stopped"
            return self._lost(study, TIME_LIMIT, what)
        except ProcessExpired as error:
            return self._lost(study, WORKER_DIED, f"ended its worker ({_ending(error.exitcode)})")
        except BrokenProcessPool:
            return self._lost(study, WORKER_DIED, "ended its worker")

    def close(self) -> None:
        """End the process, even while it is working."""
        self._closed = True
        self._end()

    def _lost(self, study: Study, code: str, what: str) -> Attempt:
        stage = last_stage(self.work.output_dir, study.id)
        return lost(
            study, code, f"{what} in stage {stage!r}" if stage else f"{what} before it was begun", stage
        )

    def _end(self) -> None:
        self._pool.stop()
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        # A pool of one: with more, pebble cannot always tell which study a lost worker had.
        # The fork server has imported what is slow to import, so that a new worker is ready at once.
        context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            context.set_forkserver_preload(["medvit.runs.workers", *self.work.preload])
            _start_fork_server()
        return ProcessPool(1, initializer=_begin, initargs=(self.work,), context=context)


def _start_fork_server() -> None:
    # It ignores Ctrl-C only after its imports, which take seconds and would end in a traceback.
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        forkserver.ensure_running()
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


class LocalExecutor:
    """Several workers on this machine.

    Parameters
    ----------
    work, time_limit
        As in `Worker`.
    workers
        Number of workers.
    """

    def __init__(self, work: Work, workers: int, time_limit: float | None = None) -> None:
        self.capacity = workers
        self._workers = [Worker(work, time_limit) for _ in range(workers)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, study: Study) -> Future[Attempt]:
        """Let the next free worker process `study`."""
        return self._threads.submit(self._attempt, study)

    def close(self) -> None:
        """End all workers, even while they are working."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(cancel_futures=True)

    def _attempt(self, study: Study) -> Attempt:
        worker = self._idle.get()
        try:
            return worker.attempt(study)
        finally:
            self._idle.put(worker)


def lost(study: Study, code: str, what: str, stage: str = "") -> Attempt:
    """The attempt at a study that ended its worker."""
    outcome = StudyOutcome(study.id, stage=cast(Stage, stage or "read"))
    outcome.fail(StudyError(code, what, path=study.path))
    return Attempt(outcome)


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_work: Work | None = None
_opened = False


def _begin(work: Work) -> None:
    global _work
    _work = work
    if os.environ.get(SILENT):
        logging.disable(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker must not continue, and hold its claim, when its run was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _attempt(study: Study, digests: Known) -> Attempt:
    global _opened
    learn_digests(digests)
    assert _work is not None, "workers begin with their work"
    if not _opened:
        try:
            _work.open()
        except Exception as error:
            outcome = StudyOutcome(study.id)
            outcome.fail(error)
            return Attempt(outcome, "unfit")
        _opened = True
    return attempt(_work, study)


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"{name}, perhaps for lack of memory" if name == "SIGKILL" else name
    return f"exit code {exit_code}"
