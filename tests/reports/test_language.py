"""Numbers and dates as each language writes them."""

from __future__ import annotations

import datetime

import pytest

from medvit.errors import MedvitError
from medvit.reports import load_language
from tests.reports.phantom import BRAIN


@pytest.mark.parametrize(
    ("code", "number", "date", "hippocampus"),
    [
        ("en_GB", "−1,234.50", "2024-03-05", "left hippocampus"),
        ("de", "−1.234,50", "05.03.2024", "Hippocampus (links)"),
        ("fr-CA", "−1\u202f234,50", "05/03/2024", "hippocampe (gauche)"),
    ],
)
def test_numbers_dates_and_names(code: str, number: str, date: str, hippocampus: str) -> None:
    language = load_language(code)
    assert language.number(-1234.5, 2) == number
    assert language.date(datetime.date(2024, 3, 5)) == date
    assert language.structure(BRAIN.by_name["left hippocampus"]) == hippocampus


def test_volumes_keep_three_figures() -> None:
    assert [load_language("en").ml(v) for v in (0.5234, 62.91, 287.4, 0.0)] == ["0.52", "62.9", "287", "0.00"]


def test_what_is_unknown_is_a_dash() -> None:
    language = load_language("de")
    assert language.number(None) == language.number(float("nan")) == language.date(None) == "–"


@pytest.mark.parametrize("code", ["xx", "", "../en"])
def test_unknown_languages_are_refused_with_the_choices(code: str) -> None:
    with pytest.raises(MedvitError, match="choose one of de, en, fr"):
        load_language(code)
