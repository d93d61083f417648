"""Distribution of studies to workers: how many at once, which to retry, which to set aside."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol

from medvit.errors import MedvitError
from medvit.runs.outcome import StudyOutcome
from medvit.runs.refusals import PASSING, TIME_LIMIT, WORKER_DIED
from medvit.runs.work import Attempt
from medvit.studies import Study

# A study that has cost this many workers is set aside, whatever the number of retries.
MAX_LOST = 2
# After this many attempts that each cost a worker, and no others, the fault is not the studies'.
ALL_LOST = 8
_PAUSE = 0.5


class Executor(Protocol):
    """Runs the attempts."""

    @property
    def capacity(self) -> int:
        """The number of studies to hand out at once."""

    def submit(self, study: Study) -> Future[Attempt]:
        """Process `study`; the future never holds an exception of the study."""

    def close(self) -> None:
        """End the workers."""


@dataclass
class _Task:
    place: int
    study: Study
    attempts: int = 0
    lost: int = 0

    def again(self, outcome: StudyOutcome, retries: int) -> bool:
        """Count an attempt, and say whether another one may help."""
        self.attempts += 1
        self.lost += outcome.code in (WORKER_DIED, TIME_LIMIT)
        passing = outcome.status == "failed" and outcome.code in PASSING
        return passing and self.attempts <= retries and self.lost < MAX_LOST


class _Waiting:
    """Tasks in the order of the cohort; postponed ones come after all that were never begun."""

    def __init__(self, studies: Sequence[Study]) -> None:
        self._heap = [(0.0, place, _Task(place, study)) for place, study in enumerate(studies)]

    def __bool__(self) -> bool:
        return bool(self._heap)

    def put_off(self, task: _Task, seconds: float = 0.0) -> None:
        heapq.heappush(self._heap, (time.monotonic() + seconds, task.place, task))

    def take(self) -> _Task | None:
        due = self._heap and self._heap[0][0] <= time.monotonic()
        return heapq.heappop(self._heap)[2] if due else None

    def clear(self) -> None:
        self._heap.clear()


def attempts(
    executor: Executor, studies: Sequence[Study], retries: int
) -> Iterator[tuple[StudyOutcome, str]]:
    """Process all `studies`, as many at once as the executor takes.

    Parameters
    ----------
    executor
        Executor of the attempts, on one machine or several.
    studies
        Studies in the order in which to begin them.
    retries
        Number of further attempts at a study after a failure that may be temporary.

    Yields
    ------
    tuple
        Each outcome as it comes, and ``"done"``, ``"kept"``, ``"failed"`` or ``"retry"``. Once the disk is
        full no further study is begun.

    Raises
    ------
    MedvitError
        If no worker can begin, or every one is lost.
    """
    waiting, running = _Waiting(studies), 0
    results: SimpleQueue[tuple[_Task, Future[Attempt]]] = SimpleQueue()
    ended = lost = 0
    while running or waiting:
        while running < executor.capacity and (task := waiting.take()):
            executor.submit(task.study).add_done_callback(partial(_deliver, results, task))
            running += 1
        try:
            task, future = results.get(timeout=_PAUSE)
        except Empty:
            continue
        running -= 1
        attempt = future.result()
        outcome = attempt.outcome
        if attempt.state == "unfit":
            raise MedvitError(f"the workers cannot begin: {outcome.error}")
        if attempt.state == "busy":
            waiting.put_off(task, _PAUSE)
            continue
        ended, lost = ended + 1, lost + (outcome.code == WORKER_DIED)
        if lost == ended >= max(ALL_LOST, 2 * executor.capacity):
            what = f"every worker was lost ({outcome.error})"
            raise MedvitError(f"{what}; try fewer workers, or one study with `medvit run`")
        if outcome.code == "disk-full":
            waiting.clear()
        if task.again(outcome, retries):
            waiting.put_off(task)
            yield outcome, "retry"
        elif outcome.status == "done":
            yield outcome, "kept" if attempt.state == "kept" else "done"
        else:
            yield _set_aside(outcome, task), "failed"


def _deliver(
    results: SimpleQueue[tuple[_Task, Future[Attempt]]], task: _Task, future: Future[Attempt]
) -> None:
    results.put((task, future))


def _set_aside(outcome: StudyOutcome, task: _Task) -> StudyOutcome:
    if task.lost >= MAX_LOST:
        return replace(outcome, error=f"{outcome.error}; set aside, as it cost {task.lost} workers")
    if task.attempts > 1:
        return replace(outcome, error=f"{outcome.error}; tried {task.attempts} times")
    return outcome
