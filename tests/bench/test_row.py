"""The figures of a bundle: both sides as one structure, infinite distances apart, biases signed."""

from __future__ import annotations

import math

import pytest

from medvit.bench.row import MANUAL, Row, groups_of, structures_of
from medvit.evaluation.measure import StudyScores


def scores(study: str, left: float, right: float, bias: float, hd95: float = 2.0) -> StudyScores:
    values = {
        name: {
            "dice": dice, "hd95_mm": hd95, "volume_error_percent": bias, "volume_error_ml": bias / 10,
            "volume_ml": 4 + bias / 10, "reference_ml": 4.0,
        }
        for name, dice in (("left hippocampus", left), ("right hippocampus", right))
    }  # fmt: skip
    return StudyScores(study, dict.fromkeys(values, "both"), values)


def row() -> Row:
    own = [scores("a", 0.8, 0.9, 10), scores("b", 0.6, 0.7, -20, hd95=math.inf)]
    return Row("bundle", scores={"synthetic": own[:1], MANUAL: own})


def test_sides_are_averaged_into_one_structure() -> None:
    assert row().by_structure(MANUAL, "dice") == {"hippocampus": pytest.approx(0.75)}
    assert structures_of([row()], MANUAL) == ["hippocampus"]
    assert row().by_structure("nothing", "dice") == {}


def test_the_mean_over_structures_comes_with_its_interval() -> None:
    found = row().mean(MANUAL, "dice")
    assert found is not None and found.low <= found.mean <= found.high
    assert found.mean == pytest.approx(0.75)
    assert row().mean("nothing", "dice") is None


def test_errors_of_volume_keep_their_sign() -> None:
    assert row().volume_bias(MANUAL) == {"hippocampus": pytest.approx(-5)}


def test_a_study_without_a_finite_distance_has_no_mean() -> None:
    assert row().by_study(MANUAL, "hd95_mm") == {"a": 2.0}
    assert row().by_study(MANUAL, "dice") == {"a": pytest.approx(0.85), "b": pytest.approx(0.65)}


def test_groups_begin_with_manual_labels_and_costs_may_be_unknown() -> None:
    assert groups_of([row(), Row("other", scores={"template": []})]) == [MANUAL, "synthetic", "template"]
    assert row().cost("seconds") is None
    assert Row("bundle", costs={"seconds": 3.0}).cost("seconds") == 3.0
