"""Numbers and dates as each language writes them."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from importlib.resources import files

import pytest

from medvit.errors import MedvitError
from medvit.reports import load_language
from medvit.studies.labels import load_label_table
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


def sentences(words: dict, path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in words.items():
        if isinstance(value, dict):
            yield from sentences(value, f"{path}/{key}")
        else:
            yield f"{path}/{key}", str(value)


@pytest.mark.parametrize("code", ["de", "fr"])
def test_every_sentence_stands_in_every_language_with_the_same_places(code: str) -> None:
    english, other = (
        dict(sentences(json.loads((files("medvit.reports") / "locales" / f"{c}.json").read_text("utf-8"))))
        for c in ("en", code)
    )
    # English takes the names of structures from the label tables.
    assert other.keys() - {key for key in other if key.startswith("/structures/")} == english.keys()
    for key, sentence in english.items():
        assert set(re.findall(r"{\w+}", other[key])) == set(re.findall(r"{\w+}", sentence)), key
        assert bool(other[key]) == bool(sentence), key


@pytest.mark.parametrize("code", ["de", "fr"])
def test_every_structure_has_a_name_in_every_language(code: str) -> None:
    language = load_language(code)
    for table in ("brain", "hippocampus"):
        for structure in load_label_table(table):
            assert structure.unsided_name in language.structures
