"""Changes since earlier studies: never growth within repeatability, none across methods."""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np
import pytest

from medvit.reports import Prior, Stated, load_language, make_report
from medvit.reports.changes import Changes
from medvit.reports.prior import repeatability_percent
from medvit.reports.quality import Verdict
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN, head, ras_affine

TODAY = datetime.date(2024, 3, 5)
SHA = "ab" * 32


def compared(factor: float, **others: Any) -> tuple[str, str, str]:
    """The row of the left hippocampus whose volume has changed by a factor."""
    image, labels, grid = head((40, 48, 40), 4.5)
    report = make_report(
        "now", labels, grid, BRAIN, image, stated=Stated(date=TODAY), provenance={"weights_sha256": SHA}
    )
    now = report.measurements["left hippocampus"].volume_ml
    facts = {"weights_sha256": SHA, "spacing": (4.5, 4.5, 4.5)} | others
    earlier = Prior("old", datetime.date(2020, 1, 2), {"left hippocampus": now / factor}, **facts)
    report = make_report(
        "now", labels, grid, BRAIN, image, stated=Stated(date=TODAY), provenance={"weights_sha256": SHA},
        priors=(earlier,),
    )  # fmt: skip
    rows = Changes(report, load_language("en")).rows()
    (row,) = (r for r in rows if r.name == "left hippocampus")
    return row.earlier[0]


def test_change_within_repeatability_is_not_printed_as_growth() -> None:
    band = repeatability_percent("left hippocampus")
    _, ml, percent = compared(1 + 0.9 * band / 100)
    assert ml == "–" and re.fullmatch(r"within ±\d+ %", percent)
    _, ml, percent = compared(1 + 1.1 * band / 100)
    assert ml.startswith("+") and float(percent) == pytest.approx(1.1 * band, abs=0.1)


@pytest.mark.parametrize(
    "others",
    [
        {"weights_sha256": "cd" * 32},
        {"spacing": (4.5, 4.5, 9.0)},
        {"contrast": "T1-like"},
        {"intracranial_ml": 1500.0},
    ],
)
def test_studies_measured_otherwise_are_not_compared(others: dict[str, Any]) -> None:
    assert compared(1.84, **others)[1:] == ("–", "not comparable")


def changes_of(*priors: Prior, **provenance: str) -> Changes:
    """The changes of a left thalamus of 8 ml; the right one was not found."""
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[2:4, 2:4, 2:4] = BRAIN.by_name["left thalamus"].value
    grid = Grid(labels.shape, ras_affine(10.0, labels.shape))
    report = make_report(
        "now", labels, grid, BRAIN, stated=Stated(date=TODAY), priors=priors, provenance=provenance
    )
    return Changes(report, load_language("en"))


def test_earlier_studies_stand_latest_first_with_what_they_were() -> None:
    old = Prior("a", datetime.date(2019, 1, 2), {"left thalamus": 4.0})
    new = Prior(
        "b", datetime.date(2022, 3, 4), {"left thalamus": 10.0, "right thalamus": 7.0}, Verdict("amber", ""),
        "T1-like", (10.0, 10.0, 10.0), "brain 1.0",
    )  # fmt: skip
    changes = changes_of(old, new, bundle="brain", bundle_version="2.0")
    assert changes.dates == ["2022-03-04", "2019-01-02"]
    now, latest, first = changes.studies()
    assert now[2:] == ("–", "10.00 × 10.00 × 10.00 mm", "brain 2.0")
    assert latest == (
        "2022-03-04", changes.words["amber"], changes.words["contrast_T1-like"],
        "10.00 × 10.00 × 10.00 mm", "brain 1.0",
    )  # fmt: skip
    assert first == ("2019-01-02", "–", "–", "–", "–")
    rows = {row.name: row for row in changes.rows()}
    assert rows["left thalamus"].now == "8.00"
    assert rows["left thalamus"].earlier == (("10.0", "−2.0", "−20.0"), ("4.00", "+4.00", "+100.0"))
    assert rows["right thalamus"].now == changes.words["absent"]
    assert rows["right thalamus"].earlier == (("7.00", "–", "–"), ("–", "–", "–"))
    assert set(rows) == {"left thalamus", "right thalamus"}  # others were found neither now nor then


def test_a_note_says_that_some_studies_are_not_compared() -> None:
    alike = Prior("a", datetime.date(2019, 1, 2), {}, spacing=(10.0, 10.0, 14.9))
    other = Prior("b", datetime.date(2019, 1, 2), {}, spacing=(10.0, 10.0, 15.1))
    said = load_language("en")["not_comparable_note"]
    assert said not in changes_of(alike).notes()
    assert said in changes_of(alike, other).notes()
