"""Facts that a report is made of: what is stated, what is read, and what is withheld."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.reports import Prior, Stated, StudyReport, make_report
from medvit.reports.report import field_strength, stated_of
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN, head, ras_affine


def test_stated_facts_are_validated() -> None:
    assert stated_of(None, None, None) == Stated()
    assert stated_of(71.5, "f", "2024-03-05") == Stated(71.5, "F", datetime.date(2024, 3, 5))
    assert stated_of(0, "M", None) == Stated(0, "M", None)


@pytest.mark.parametrize(
    ("age", "sex", "date", "match"),
    [
        (-1, None, None, "-1 years"),
        (121, None, None, "0 to 120"),
        (float("nan"), None, None, "nan years"),
        (None, "X", None, "'X'"),
        (None, None, "2024-13-05", "YYYY-MM-DD"),
        (None, None, "yesterday", "'yesterday'"),
    ],
)
def test_impossible_facts_are_refused(
    age: float | None, sex: str | None, date: str | None, match: str
) -> None:
    with pytest.raises(MedvitError, match=match):
        stated_of(age, sex, date)


@pytest.mark.parametrize(
    ("written", "tesla"), [(3, 3.0), ("1.5", 1.5), (15000, 1.5), ("30000", 3.0), (None, None), ("n/a", None)]
)
def test_field_strength_in_tesla_or_gauss(written: object, tesla: float | None) -> None:
    assert field_strength(written) == tesla


@pytest.fixture(scope="module")
def adult() -> dict[str, Any]:
    """A head of 1,500 ml with hippocampi of 4 and 3 ml: voxels of 1 ml."""
    labels = np.zeros((10, 10, 16), np.uint8)
    labels[:, :, :14] = BRAIN.by_name["left cerebral white matter"].value
    labels[:, :, 14] = BRAIN.by_name["cerebrospinal fluid"].value
    labels[0, :4, 0] = BRAIN.by_name["left hippocampus"].value
    labels[9, :3, 0] = BRAIN.by_name["right hippocampus"].value
    grid = Grid(labels.shape, ras_affine(10.0, labels.shape))
    return {"study_id": "adult", "label_map": labels, "grid": grid, "table": BRAIN}


def withheld(report: StudyReport) -> bool:
    return report.covariates is None and report.norms == {}


def test_norms_need_age_sex_and_sound_volumes(adult: dict[str, Any]) -> None:
    stated = Stated(60, "F")
    facts = {"modality": "MR", "field_strength": 15000, "manufacturer": "Philips Healthcare"}
    # Whatever else this odd head lacks, only the listed findings withhold norms.
    sound = make_report(**adult, facts=facts, stated=stated)
    codes = {f.code for f in sound.flags}
    assert "fluid_missing" in codes and withheld(sound)
    clean = StudyReport(
        "adult", facts, sound.grid, None, sound.label_map, BRAIN, sound.measurements, (), stated=stated
    )
    assert clean.covariates is not None
    assert clean.covariates.icv_ml == pytest.approx(1500)
    assert clean.covariates.scanner == "Philips 1.5 T"
    assert clean.norms["left hippocampus"][0] == pytest.approx(4)
    assert clean.norms["hippocampus"][0] == pytest.approx(7)
    for others in (
        {"stated": Stated(60)},
        {"stated": Stated(None, "F")},
        {"facts": facts | {"modality": "CT"}},
    ):
        settings = {"facts": facts, "stated": stated} | others
        assert withheld(
            StudyReport(
                "adult", settings["facts"], sound.grid, None, sound.label_map, BRAIN, sound.measurements, (),
                stated=settings["stated"],
            )
        )  # fmt: skip


def test_what_is_stated_overrides_the_headers(adult: dict[str, Any]) -> None:
    facts, patient = {"study_date": "20200301"}, {"birth_date": "19600301", "sex": "M", "id": "7"}
    read = make_report(**adult, facts=facts, patient=patient)
    assert (read.date, read.sex) == (datetime.date(2020, 3, 1), "M")
    assert read.age == pytest.approx(60, abs=0.01)
    assert read.shown_date(False) is None and read.shown_date(True) == datetime.date(2020, 3, 1)
    stated = Stated(44, "F", datetime.date(2021, 1, 2))
    overruled = make_report(**adult, facts=facts, patient=patient, stated=stated)
    assert (overruled.date, overruled.age, overruled.sex) == (datetime.date(2021, 1, 2), 44, "F")
    assert overruled.shown_date(False) == datetime.date(2021, 1, 2)


def test_a_report_on_some_structures_keeps_the_totals_of_all(adult: dict[str, Any]) -> None:
    report = make_report(**adult)
    some = report.only(BRAIN.chosen(["left hippocampus", "cerebrospinal fluid"]))
    assert [m.structure.name for m in some.measurements.structures] == [
        "left hippocampus",
        "cerebrospinal fluid",
    ]
    assert some.measurements["left hippocampus"].share == pytest.approx(4 / 1500)
    assert some.measurements.asymmetries == ()
    assert np.count_nonzero(some.label_map) == 4 + 100
    assert some.totals == report.totals and some.flags == report.flags
    both = some.only(BRAIN.chosen(["hippocampus"]))
    assert [a.name for a in both.measurements.asymmetries] == ["hippocampus"]


def test_intensities_have_the_unit_of_the_modality(adult: dict[str, Any]) -> None:
    units = [
        make_report(**adult, facts=facts).unit
        for facts in ({"modality": "CT"}, {"modality": "PT", "units": "BQML"}, {"modality": "MR"}, None)
    ]
    assert units == ["HU", "BQML", "a.u.", "a.u."]


def test_the_latest_of_the_earlier_studies_is_drawn(adult: dict[str, Any]) -> None:
    days = [datetime.date(2019, 5, 1), datetime.date(2020, 5, 1), datetime.date(2018, 5, 1)]
    priors = tuple(Prior(str(day), day, {}) for day in days)
    report = make_report(**adult, stated=Stated(date=datetime.date(2021, 1, 1)), priors=priors)
    assert report.latest_prior is not None and report.latest_prior.date == days[1]
    assert report.earlier is None and report.not_drawn  # its label map does not lie beside it
    assert report.changed == []


def test_an_image_before_on_another_grid_is_refused() -> None:
    image, labels, grid = head()
    with pytest.raises(MedvitError, match="image before"):
        make_report("x", labels, grid, BRAIN, image, restored_from=image[1:])
