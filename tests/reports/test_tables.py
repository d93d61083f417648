"""The result as JSON values and as rows of tables."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.reports.tables import LONG_COLUMNS, csv_text, long_rows, plain, wide_row

CONTENT: dict[str, Any] = {
    "study": {"id": "p1", "date": "2026-03-01"},
    "whole": {"name": "intracranial volume", "volume_ml": 1500.0},
    "structures": [
        {
            "name": "left thalamus", "side": "left", "present": True, "volume_ml": 7.5, "share_percent": 0.5,
            "intensity": {"mean": 100.0, "std": 5.0}, "parts": 1, "touches_border": ["inferior", "left"],
            "plausible_ml": [5.0, 9.0],
        },
        {
            "name": "brain-stem", "side": "", "present": False, "volume_ml": 0.0, "share_percent": 0.0,
            "intensity": None, "parts": 0, "touches_border": [], "plausible_ml": None,
        },
    ],
    "asymmetry": [{"name": "thalamus", "index_percent": -4.0}],
    "quality": {
        "light": "amber",
        "flags": [
            {"code": "few_slices", "level": "info", "seen": "Few."},
            {"code": "absent", "level": "warning", "seen": "Not found: brain-stem."},
        ],
    },
}  # fmt: skip


def test_a_row_for_each_structure() -> None:
    thalamus, stem = long_rows(CONTENT)
    assert tuple(thalamus) == LONG_COLUMNS
    assert tuple(thalamus.values()) == (
        "p1", "2026-03-01", "left thalamus", "left", True, 7.5, 0.5, -4.0, 100.0, 5.0, 1, "inferior+left",
        5.0, 9.0, "amber",
    )  # fmt: skip
    assert tuple(stem.values()) == (
        "p1", "2026-03-01", "brain-stem", "", False, 0.0, 0.0, None, None, None, 0, "", None, None, "amber",
    )  # fmt: skip


def test_one_row_for_the_study() -> None:
    assert wide_row(CONTENT) == {
        "study": "p1",
        "date": "2026-03-01",
        "quality": "amber",
        "finding": "Not found: brain-stem.",
        "flags": "few_slices+absent",
        "intracranial_volume_ml": 1500.0,
        "left_thalamus_ml": 7.5,
        "brain-stem_ml": 0.0,
        "thalamus_asymmetry_percent": -4.0,
    }


def test_tables_hold_six_digits_and_no_formulas() -> None:
    rows = [{"a": 1234.56789, "b": "=SUM(A1)"}, {"b": "plain, text", "c": -1, "d": "-x"}]
    text = csv_text(rows)
    assert text.splitlines()[0] == "a,b,c,d"
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"a": "1234.57", "b": "'=SUM(A1)", "c": "", "d": ""},
        {"a": "", "b": "plain, text", "c": "-1", "d": "'-x"},
    ]
    assert csv_text([], ["x", "y"]) == "x,y\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array(2.0), 2.0),
        (float("nan"), None),
        (np.float64("inf"), None),
        (True, True),
        (Path("a") / "b", "a/b"),
        ({1: (1.0, float("-inf"))}, {"1": [1.0, None]}),
        ([{"x": np.bool_(False)}], [{"x": False}]),
    ],
)
def test_values_are_jsons_own(value: Any, expected: Any) -> None:
    found = plain(value)
    assert found == expected and type(found) is type(expected)
    json.dumps(found, allow_nan=False)
