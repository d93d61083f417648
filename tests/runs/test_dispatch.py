"""Which studies are tried again, which are set aside, and when a run gives up."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.runs.dispatch import ALL_LOST, attempts
from medvit.runs.outcome import StudyOutcome
from medvit.runs.refusals import TIME_LIMIT, WORKER_DIED
from medvit.runs.work import Attempt
from medvit.studies import Study
from medvit.studies.study import Series

Script = Callable[[str, int], Attempt]


def done(study: str, state: str = "made") -> Attempt:
    return Attempt(StudyOutcome(study), state)  # type: ignore[arg-type]


def failed(study: str, code: str) -> Attempt:
    return Attempt(StudyOutcome(study, "failed", error="it failed", code=code))


class Scripted:
    """An executor whose attempts have the outcomes that a script gives them; at most two at once."""

    capacity = 2

    def __init__(self, script: Script) -> None:
        self.script, self.begun = script, list[str]()

    def submit(self, study: Study) -> Future[Attempt]:
        self.begun.append(study.id)
        future: Future[Attempt] = Future()
        future.set_result(self.script(study.id, self.begun.count(study.id)))
        return future

    def close(self) -> None:
        """Nothing to end."""


def outcomes(script: Script, studies: str, retries: int = 1) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(study, state, error) as they came, and the studies as they were begun."""
    executor = Scripted(script)
    cohort = [Study(name, (Series((Path(name),), "nifti", {}),)) for name in studies]
    found = [(o.study, state, o.error) for o, state in attempts(executor, cohort, retries)]
    return found, executor.begun


def test_a_passing_failure_is_tried_again_after_all_others() -> None:
    found, begun = outcomes(lambda s, n: failed(s, "OSError") if (s, n) == ("a", 1) else done(s), "abc")
    assert begun == ["a", "b", "c", "a"]
    assert [state for _, state, _ in found] == ["retry", "done", "done", "done"]


def test_a_refusal_is_final_and_retries_end() -> None:
    found, begun = outcomes(lambda s, _: failed(s, "nifti-4d"), "a", retries=5)
    assert (found, begun) == ([("a", "failed", "it failed")], ["a"])
    found, begun = outcomes(lambda s, _: failed(s, "OSError"), "a", retries=2)
    assert begun == ["a"] * 3
    assert found[-1] == ("a", "failed", "it failed; tried 3 times")


@pytest.mark.parametrize("code", [WORKER_DIED, TIME_LIMIT])
def test_a_study_that_cost_two_workers_is_set_aside(code: str) -> None:
    found, begun = outcomes(lambda s, _: failed(s, code) if s == "a" else done(s), "ab", retries=9)
    assert begun.count("a") == 2
    assert found[-1] == ("a", "failed", "it failed; set aside, as it cost 2 workers")


def test_a_run_whose_every_attempt_costs_a_worker_gives_up() -> None:
    with pytest.raises(MedvitError, match=r"every worker was lost.*try fewer workers"):
        outcomes(lambda s, _: failed(s, WORKER_DIED), "abcdefghijkl", retries=0)
    # One study that is done shows that the workers are not at fault.
    found, _ = outcomes(
        lambda s, _: done(s) if s == "a" else failed(s, WORKER_DIED), "abcdefghijkl", retries=0
    )
    assert len(found) == 12 > ALL_LOST


def test_nothing_is_begun_on_a_full_disk() -> None:
    found, begun = outcomes(lambda s, _: failed(s, "disk-full") if s == "b" else done(s), "abcdef")
    assert begun == ["a", "b", "c"]
    assert found[1] == ("b", "failed", "it failed")


def test_what_another_run_holds_is_asked_for_again_and_not_counted() -> None:
    found, begun = outcomes(lambda s, n: done(s, "busy" if n == 1 else "kept"), "a")
    assert begun == ["a", "a"]
    assert found == [("a", "kept", "")]


def test_workers_that_cannot_begin_end_the_run() -> None:
    unfit = lambda s, _: Attempt(StudyOutcome(s, "failed", error="no weights"), "unfit")  # noqa: E731
    with pytest.raises(MedvitError, match="the workers cannot begin: no weights"):
        outcomes(unfit, "ab")
