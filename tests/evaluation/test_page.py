"""The page of an evaluation: where dots, means and limits are drawn, and which structures come first."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.evaluation import Options, StudyScores, agreements, summarise
from medvit.evaluation.page import (
    DOTS,
    WORST,
    _bland_altman,
    _drawing,
    _reliability,
    _ticks,
    _worst,
    write_page,
)
from medvit.metrics import Reliability
from medvit.studies.found import LeftOut


def scores(**columns: list[float]) -> list[StudyScores]:
    """One structure "a"; each column is a metric over the studies."""
    studies = len(next(iter(columns.values())))
    values = [{metric: column[i] for metric, column in columns.items()} for i in range(studies)]
    return [StudyScores(f"s{i}", {"a": "both"}, {"a": v}) for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (9.0, [0, 2, 4, 6, 8, 10]),
        (4.0, [0, 1, 2, 3, 4]),
        (37.0, [0, 5, 10, 15, 20, 25, 30, 35, 40]),
        (0.003, [0, 0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003]),
    ],
)
def test_ticks_are_round_and_reach_the_largest(largest: float, ticks: list[float]) -> None:
    assert _ticks(largest) == pytest.approx(ticks)


def drawing(metric: str, **columns: list[float]) -> dict[str, Any]:
    measured = scores(**columns)
    return _drawing(metric, measured, summarise(measured))


def test_dots_and_means_stand_at_their_values() -> None:
    (line,) = drawing("dice", dice=[0.5, 0.75, 1.0])["lines"]
    assert [x for x, _ in line["dots"]] == [200.0, 300.0, 400.0]
    assert line["mean"] == 300.0
    low, high = line["interval"]
    assert 200 <= low < 300 < high <= 400
    assert all(-4 <= y <= 4 for _, y in line["dots"]) and len({y for _, y in line["dots"]}) == 3
    assert line["says"] == "a: mean 0.750 of 3"


def test_distances_have_their_own_axis_without_infinite_values() -> None:
    found = drawing("hd95_mm", hd95_mm=[2.0, 8.0, math.inf])
    assert found["ticks"][-1] == (400.0, "8")
    (line,) = found["lines"]
    assert [x for x, _ in line["dots"]] == [100.0, 400.0] and line["mean"] == 250.0
    assert drawing("hd95_mm", hd95_mm=[math.inf, math.inf])["lines"] == []


def test_quantiles_stand_for_very_many_studies() -> None:
    (line,) = drawing("dice", dice=np.linspace(0, 1, 1001).tolist())["lines"]
    places = [x for x, _ in line["dots"]]
    assert len(places) == DOTS and (places[0], places[-1]) == (0.0, 400.0)


def test_limits_of_agreement_by_hand() -> None:
    measured = scores(volume_prediction_ml=[11.0, 19.0, 30.0], volume_reference_ml=[9.0, 21.0, 30.0])
    (agreement,) = agreements(measured)
    found = _bland_altman(agreement)
    # Differences 2, -2, 0: no bias, limits 1.96 * 2 = 3.92, so the drawing reaches 4.312 up and down.
    assert found["bias"] == 70.0
    assert found["limits"] == pytest.approx([70 + 70 / 1.1, 70 - 70 / 1.1], abs=0.05)
    assert found["dots"] == [
        (8.0, pytest.approx(70 - 70 * 2 / 4.312, abs=0.05)),
        (120.0, pytest.approx(70 + 70 * 2 / 4.312, abs=0.05)),
        (232.0, 70.0),
    ]
    assert found["says"] == "bias 0.00 ml, limits −3.92 to 3.92 ml, 3 studies"


def test_a_single_study_has_no_limits_of_agreement() -> None:
    (agreement,) = agreements(scores(volume_prediction_ml=[5.0], volume_reference_ml=[5.0]))
    found = _bland_altman(agreement)
    assert found["limits"] == [] and found["dots"] == [(120.0, 70.0)]


def test_bins_of_calibration_stand_at_their_confidence() -> None:
    count = np.array([100, 0, 25])
    reliability = Reliability(np.array([0.25, np.nan, 1.0]), np.array([0.5, np.nan, 0.0]), count)
    found = _reliability("a", reliability)
    assert found["dots"] == [(35.0, 70.0, 5.5), (140.0, 140.0, 3.5)]


def test_the_worst_come_first_and_the_larger_error_among_equals() -> None:
    dice = [0.9, 0.0, 0.0, math.nan]
    measured = scores(dice=dice, hd95_mm=[1.0] * 4, volume_error_ml=[0.1, -3.0, 8.0, 0.0])
    measured[1].presence["a"] = "reference"
    measured[2].presence["a"] = "prediction"
    found = _worst(measured)
    assert [(w["study"], w["presence"]) for w in found] == [
        ("s2", "only in the prediction"), ("s1", "only in the reference"), ("s0", "")
    ]  # fmt: skip
    assert len(_worst(scores(dice=[0.5] * 50, hd95_mm=[1.0] * 50, volume_error_ml=[0.0] * 50))) == WORST
    assert _worst(scores(dice=[0.5])) == []  # where Dice alone was measured


def test_the_page_is_one_file_that_says_what_was_left_out(tmp_path: Path) -> None:
    measured = scores(dice=[0.5, 0.7], hd95_mm=[2.0, math.inf], volume_error_ml=[1.0, -1.0])
    left_out = [LeftOut(Path("notes.txt"), "is <not> an image")]
    write_page(tmp_path / "p.html", measured, summarise(measured), [], left_out, Options())
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert ">0.600<" in re.sub(r"\s", "", text)
    assert "is &lt;not&gt; an image" in text
    assert not re.search(r"\b(nan|inf)\b", text)
    assert [p.name for p in tmp_path.iterdir()] == ["p.html"]
