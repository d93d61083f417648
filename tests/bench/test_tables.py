"""The bench as CSV and JSON: every figure where a reader looks for it, and none that is not a number."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from medvit.bench.row import MANUAL, Row
from medvit.bench.tables import write_csv, write_json
from medvit.evaluation.measure import StudyScores


def scores(study: str, dice: float, hd95: float, ours: float, theirs: float) -> StudyScores:
    values = {
        "dice": dice, "surface_dice": dice, "hd95_mm": hd95,
        "volume_off_percent": 100 * abs(ours / theirs - 1),
        "volume_error_percent": 100 * (ours / theirs - 1), "volume_prediction_ml": ours,
        "volume_reference_ml": theirs,
    }  # fmt: skip
    return StudyScores(study, {"thalamus": "both"}, {"thalamus": values})


@pytest.fixture
def rows() -> list[Row]:
    measured = [scores("a", 0.8, 2.0, 11, 10), scores("b", 0.6, math.inf, 8, 10)]
    costs = {"key": "k", "seconds": 12.34567, "parameters": 5_000_000, "machine": "made up"}
    full = Row("one", "1.0", "ab" * 32, 12.5, "x", {MANUAL: measured, "synthetic": measured[:1]}, costs)
    return [full, Row("two", error="no weights", failures={"a": "not read"}, red={"b": "noise"})]


def test_each_bundle_has_one_line(rows: list[Row], tmp_path: Path) -> None:
    write_csv(tmp_path / "bench.csv", rows)
    with (tmp_path / "bench.csv").open(encoding="utf-8") as file:
        one, two = csv.DictReader(file)
    assert one["bundle"] == "one" and one["weights_mb"] == "12.5" and one["seconds"] == "12.3457"
    assert float(one[f"{MANUAL}: dice"]) == pytest.approx(0.7)
    assert 0.6 <= float(one[f"{MANUAL}: dice low"]) < 0.7 < float(one[f"{MANUAL}: dice high"]) <= 0.8
    assert float(one[f"{MANUAL}: hd95_mm"]) == 2.0  # the infinite one is left out
    assert float(one[f"{MANUAL}: volume_off_percent"]) == pytest.approx(15)
    assert one["synthetic: dice low"] == ""  # a single study has no interval
    assert (two["error"], two[f"{MANUAL}: dice"], two["weights_mb"]) == ("no weights", "", "")


def test_json_holds_structures_studies_and_reasons(rows: list[Row], tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", rows, "2024-03-05")
    text = (tmp_path / "bench.json").read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text
    content = json.loads(text)
    assert content["date"] == "2024-03-05" and content["bootstrap"]["unit"] == "study"
    one, two = content["bundles"]
    assert one["costs"] == {"seconds": 12.34567, "parameters": 5_000_000, "machine": "made up"}
    assert one["structures"][MANUAL]["thalamus"]["hd95_mm"] == [2.0, None, None]
    assert one["studies"] == {MANUAL: {"a": 0.8, "b": 0.6}, "synthetic": {"a": 0.8}}
    # Differences of +1 and -2 ml: mean -0.5, standard deviation 2.1213.
    (volumes,) = one["volumes"].values()
    assert volumes["thalamus"]["bias_ml"] == -0.5
    assert volumes["thalamus"]["limits_ml"] == pytest.approx([-0.5 - 4.1578, -0.5 + 4.1578], abs=1e-3)
    assert volumes["thalamus"]["bias_percent"] == pytest.approx(-5)
    assert (two["error"], two["failures"], two["red"]) == ("no weights", {"a": "not read"}, {"b": "noise"})
    assert two["costs"] == {} and two["weights_mb"] is None


def test_an_unknown_date_is_null(tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", [], "")
    assert json.loads((tmp_path / "bench.json").read_text())["date"] is None
