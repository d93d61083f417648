"""What may be said of a patient."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import pytest

from medvit.errors import MedvitError
from medvit.reports import make_report, stated_of, write_pdf
from medvit.reports import sheet as sheets
from medvit.reports.patient import age_in_years, display_name, patient_check, patient_sex, technical_facts
from tests.reports.phantom import BRAIN, head


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("Wang^XiaoDong=王^小東", "Wang, XiaoDong (王 小東)"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田 太郎, やまだ たろう)"),
        ("=山田^太郎", "山田 太郎"),
        ("Adams^John Robert Quincy^^Rev.^B.A. M.Div.", "Adams, Rev. John Robert Quincy, B.A. M.Div."),
        ("Doe", "Doe"),
        ("", ""),
        ("^^^^", ""),
    ],
)
def test_names_are_written_as_people_write_them(stored: str, shown: str) -> None:
    assert display_name(stored) == shown


@pytest.mark.parametrize(
    ("patient", "age"),
    [
        ({"age": "063Y"}, 63),
        ({"age": "018M"}, 1.5),
        ({"birth_date": "19600305"}, 64.0),
        ({"birth_date": "20300101"}, None),
        ({"birth_date": "0000"}, None),
        ({"age": "unknown"}, None),
        ({}, None),
    ],
)
def test_age(patient: dict[str, Any], age: float | None) -> None:
    found = age_in_years(patient, datetime.date(2024, 3, 5))
    assert found == (pytest.approx(age, abs=0.01) if age is not None else None)


def test_sex_that_the_norms_do_not_know_is_none() -> None:
    assert [patient_sex({"sex": s}) for s in ("F", "m", "O", "")] == ["F", "M", None, None]


def test_patients_are_told_apart_without_being_named() -> None:
    first, second = (patient_check({"id": i}) for i in ("12345", "12346"))
    assert first is not None and re.fullmatch("[0-9a-f]{4}", first)
    assert first != second and patient_check({"id": "12345", "name": "X"}) == first
    assert patient_check({}) is None


def test_only_technical_facts_remain() -> None:
    facts = {"modality": "MR", "series_description": "Jane", "study_date": "2024", "body_part": "X", "a": 1}
    assert technical_facts(facts) == {"modality": "MR"}


@pytest.mark.parametrize(("age", "sex", "date"), [(130, None, None), (1, "X", None), (1, "F", "5 March")])
def test_impossible_statements_are_refused(age: float, sex: str | None, date: str | None) -> None:
    with pytest.raises(MedvitError):
        stated_of(age, sex, date)


def test_signs_without_a_font_leave_no_boxes(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(sheets, "cjk_font", lambda: None)
    page = sheets.Sheet("t", "n", "Page", "en")
    assert page.printable("Wang, XiaoDong (王 小東)") == "Wang, XiaoDong"
    assert page.printable("王 Wang") == "? Wang"
    image, labels, grid = head((30, 36, 30), 6.0)
    report = make_report("p", labels, grid, BRAIN, image, patient={"name": "Wang^XiaoDong=王^小東"})
    write_pdf(report, tmp_path / "r.pdf", show_patient=True)
    assert "Wang" not in caplog.text and "glyph" not in caplog.text
