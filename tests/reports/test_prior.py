"""Change since an earlier study: refused where it means nothing, and never growth within repeatability."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from medvit.errors import MedvitError
from medvit.reports import Prior, Stated, make_report, read_prior, write_json
from medvit.reports.prior import check_priors, contrast_of
from tests.reports.phantom import BRAIN, head

TODAY = datetime.date(2024, 3, 5)
SHA = "ab" * 32


def prior(date: datetime.date = datetime.date(2020, 1, 2), **others: Any) -> Prior:
    return Prior("old", date, {"left hippocampus": 4.0}, **others)


@pytest.mark.parametrize(
    ("others", "date", "match"),
    [
        ({}, None, "--date"),
        ({}, datetime.date(2020, 1, 2), "same date"),
        ({}, datetime.date(2019, 1, 2), "later"),
        ({"patient_check": "ffff"}, TODAY, "another patient"),
        ({"sex": "M"}, TODAY, "another patient"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    others: dict[str, Any], date: datetime.date | None, match: str
) -> None:
    with pytest.raises(MedvitError, match=match):
        check_priors([prior(**others)], date, "0000", "F")


def test_the_same_patient_is_accepted() -> None:
    check_priors([prior(patient_check="0000", sex="F"), prior()], TODAY, "0000", "F")


def test_an_earlier_study_brings_what_it_was(tmp_path: Path) -> None:
    image, labels, grid = head((40, 48, 40), 4.5)
    report = make_report(
        "old", labels, grid, BRAIN, image, stated=Stated(50, "F", datetime.date(2020, 1, 2)),
        patient={"id": "7"}, provenance={"bundle": "b", "bundle_version": "1.0", "weights_sha256": SHA},
    )  # fmt: skip
    found = read_prior(write_json(report, tmp_path / "measurements.json"))
    assert (found.date, found.sex, found.bundle) == (datetime.date(2020, 1, 2), "F", "b 1.0")
    assert found.verdict == report.verdict() and found.spacing == (4.5, 4.5, 4.5)
    assert found.patient_check == report.patient_check
    with pytest.raises(MedvitError, match="another patient"):
        make_report(
            "now", labels, grid, BRAIN, image, stated=Stated(date=TODAY), patient={"id": "8"},
            priors=(found,),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("white", "grey", "fluid", "contrast"), [(3, 2, 1, "T1-like"), (1, 2, 3, "T2-like"), (1, 3, 2, "other")]
)
def test_contrast_by_the_order_of_tissues(white: int, grey: int, fluid: int, contrast: str) -> None:
    names = ("left cerebral white matter", "left cerebral cortex", "left lateral ventricle")
    entries = [
        {"name": name, "present": True, "intensity": {"mean": mean}}
        for name, mean in zip(names, (white, grey, fluid), strict=True)
    ]
    assert contrast_of(entries) == contrast
    assert contrast_of(entries[:2]) == ""
