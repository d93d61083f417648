"""Means, intervals and limits of agreement, against the textbook."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.evaluation import StudyScores, agreements, summarise


def scores(**columns: list[float]) -> list[StudyScores]:
    """One structure "a"; each column is a metric over the studies."""
    studies = len(next(iter(columns.values())))
    return [
        StudyScores(f"s{i}", {"a": "both"}, {"a": {metric: v[i] for metric, v in columns.items()}})
        for i in range(studies)
    ]


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.05, 100)
    [one, everything] = summarise(scores(dice=values.tolist()))
    error = values.std() / 10
    assert one.mean == pytest.approx(values.mean())
    assert one.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert one.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert (everything.structure, everything.mean) == ("all structures", pytest.approx(one.mean))


def test_the_interval_can_be_had_again() -> None:
    values = scores(dice=[0.5, 0.7, 0.9, 0.95])
    assert summarise(values) == summarise(values)


def test_what_is_undefined_or_infinite_is_counted_and_not_averaged() -> None:
    [hd, _] = summarise(scores(hd95_mm=[1.0, 3.0, float("inf"), float("inf"), float("inf"), float("nan")]))
    assert (hd.studies, hd.one_sided, hd.mean) == (2, 3, 2.0)
    assert hd.median == np.inf
    assert 1.0 <= hd.low < hd.high <= 3.0


def test_a_single_study_has_no_interval() -> None:
    [one, _] = summarise(scores(dice=[0.8]))
    assert one.mean == 0.8
    assert np.isnan([one.low, one.high]).all()


def test_studies_with_other_structures_come_together() -> None:
    first = StudyScores("x", {"a": "both"}, {"a": {"dice": 0.5}})
    second = StudyScores("y", {"a": "both", "b": "both"}, {"a": {"dice": 0.7}, "b": {"dice": 1.0}})
    means = {s.structure: (s.studies, s.mean) for s in summarise([first, second])}
    assert means["a"] == (2, pytest.approx(0.6))
    assert means["b"] == (1, 1.0)
    assert means["all structures"] == (2, pytest.approx((0.5 + 0.85) / 2))


def test_agreement_by_hand() -> None:
    ours, theirs = [11.0, 12.0, 16.0, 0.0], [10.0, 12.0, 12.0, 0.0]
    [found] = agreements(scores(volume_prediction_ml=ours, volume_reference_ml=theirs))
    assert found.difference_ml.tolist() == [1, 0, 4]
    assert found.mean_ml.tolist() == [10.5, 12, 14]
    assert found.bias == pytest.approx(5 / 3)
    spread = 1.96 * np.std([1, 0, 4], ddof=1)
    assert (found.low, found.high) == (pytest.approx(5 / 3 - spread), pytest.approx(5 / 3 + spread))
