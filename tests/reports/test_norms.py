"""Norms: the published regressions, and nothing where they do not apply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medvit.reports import Stated, StudyReport, make_report, to_json, write_html, write_pdf
from medvit.reports.norms import Covariates, curve, norm_of, regressions
from tests.reports.phantom import BRAIN, head


def reported(age: float | None, sex: Any, **others: Any) -> StudyReport:
    image, labels, grid = head((40, 48, 40), 4.5)
    facts = {"modality": "MR"} | others.pop("facts", {})
    return make_report("n", labels, grid, BRAIN, image, facts=facts, stated=Stated(age, sex), **others)


def test_the_centre_of_the_regression_is_its_intercept() -> None:
    centre = regressions()["centre"]
    woman = Covariates(centre["age"], "F", centre["icv"] / 1000)
    assert norm_of("left hippocampus", woman).ml(0) == pytest.approx(4.17515, abs=1e-4)
    # The logarithm of the left lateral ventricle in mm^3 is 3.88997844 there.
    assert norm_of("left lateral ventricle", woman).ml(0) == pytest.approx(10**0.88997844, rel=1e-6)


def test_a_hand_computed_case() -> None:
    """A man of 67.5634617 years, 1.5 T, GE, with 100 ml more than the mean intracranial volume."""
    man = Covariates(67.5634617, "M", 1621.90728, field_strength=1.5, manufacturer="GE MEDICAL SYSTEMS")
    expected = (
        4175.1513335 - 5.07933901 * 20 - 0.328328849 * 400 - 0.00354005533 * 8000 + 16.3945338
        - 2.11283146 * 20 + 0.00120109374e5 + 3.08373211e-10 * 1e10 - 233.798539 + 265.387952 - 131.283404
        + 0.000118443444e5
    )  # fmt: skip
    norm = norm_of("left hippocampus", man)
    assert norm.ml(0) == pytest.approx(expected / 1000, rel=1e-6)
    assert norm.z(norm.ml(0) - 2 * 0.38257313) == pytest.approx(-2)
    assert norm.percentile(norm.ml(-1.0)) == pytest.approx(15.87, abs=0.01)


def test_brains_shrink_and_ventricles_grow_with_age() -> None:
    for name, sign in (("hippocampus", -1), ("thalamus", -1), ("ventricles", 1)):
        ages, limits = curve(name, Covariates(50, "M", 1500))
        late = limits[ages > 60]
        assert np.all(sign * np.diff(late[:, 1]) > 0)
        assert np.all((limits[:, 0] < limits[:, 1]) & (limits[:, 1] < limits[:, 2]))


def test_both_sides_together_are_as_wide_as_their_sides() -> None:
    woman = Covariates(40, "F", 1400)
    left, right, both = (norm_of(f"{s} putamen".strip(), woman) for s in ("left", "right", ""))
    assert both.ml(0) == pytest.approx(left.ml(0) + right.ml(0))
    assert both.sd == pytest.approx(left.sd + right.sd)


@pytest.mark.parametrize("age", [17.9, 94.1])
def test_no_norm_beyond_the_ages_studied(age: float) -> None:
    assert norm_of("left hippocampus", Covariates(age, "F", 1400)) is None
    assert reported(age, "F").norms == {}


@pytest.mark.parametrize(("age", "sex"), [(None, "F"), (60, None), (None, None)])
def test_nothing_is_invented_without_age_or_sex(age: float | None, sex: str | None, tmp_path: Any) -> None:
    report = reported(age, sex)
    assert to_json(report)["norms"] is None
    text = write_html(report, tmp_path / "r.html").read_text()
    assert "--age" in text and "Percentile<" not in text


def test_percentiles_stand_in_every_form(tmp_path: Any) -> None:
    report = reported(63, "F")
    content = to_json(report)["norms"]
    stated = content["volumes"]["left hippocampus"]
    norm = norm_of("left hippocampus", report.covariates)
    assert stated["z"] == pytest.approx(norm.z(report.measurements["left hippocampus"].volume_ml))
    assert "Potvin" in content["source"] and content["scanner"] == "Siemens 3 T"
    text = write_html(report, tmp_path / "r.html").read_text()
    assert "63 years, female" in text and text.count('class="bright"') >= 3
    assert write_pdf(report, tmp_path / "r.pdf").stat().st_size > 10_000


def test_a_doubtful_head_is_not_held_against_norms() -> None:
    image, labels, grid = head((40, 48, 40), 2.0)  # a head of a fifth of the volume
    report = make_report("small", labels, grid, BRAIN, image, stated=Stated(50, "M"))
    assert "intracranial_volume" in {f.code for f in report.flags}
    assert report.norms == {}
