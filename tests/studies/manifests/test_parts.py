"""A manifest that is wrong is answered with its file, the first key at fault, and what it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from medvit.errors import MedvitError
from medvit.studies.manifests.parts import (
    Count,
    Lenient,
    Number,
    Part,
    Text,
    Texts,
    check_unique,
    checked,
    shown,
)

FILE = Path("set.yaml")


class Entry(Part):
    """A part of a made-up form."""

    name: Text
    side: Literal["left", "right"] | None = None


class Form(Part):
    """A made-up form of our own."""

    title: Text
    words: Texts = ()
    number: Count = 0
    share: Number = 0.0
    mirrored: bool = False
    entries: tuple[Entry, ...] = ()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "a manifest must be a mapping, not []"),
        ({}, "title is missing"),
        ({"title": None}, "title is missing"),
        ({"title": 1}, "title must be text, not 1: put it in quotes"),
        ({"title": " "}, "title must not be empty"),
        ({"title": "a", "number": -1}, "number must be a whole number from 0, not -1"),
        ({"title": "a", "number": 1.5}, "number must be a whole number from 0, not 1.5"),
        ({"title": "a", "share": "x"}, "share must be a number, not 'x'"),
        ({"title": "a", "entries": 3}, "entries must be a list, not 3"),
        ({"title": "a", "entries": [{"name": "b", "sied": "left"}]}, "entries[0].sied is not a key"),
        ({"title": "a", "entries": [{"name": "b", "side": "up"}]}, "entries[0].side must be left or right"),
        ({"title": "a", "entries": [{"name": "b"}, {}]}, "entries[1].name is missing"),
    ],
)
def test_the_first_key_at_fault_is_named(content: Any, sentence: str) -> None:
    with pytest.raises(MedvitError) as error:
        checked(Form, FILE, content)
    assert str(error.value).startswith(f"set.yaml: {sentence}")


def test_what_is_right_is_taken() -> None:
    found = checked(Form, FILE, {"title": " a ", "words": "one", "entries": [{"name": "b", "side": "left"}]})
    assert (found.title, found.words, found.entries[0].side) == ("a", ("one",), "left")


def test_further_keys_of_other_tools_are_left_alone() -> None:
    class Foreign(Lenient):
        name: Text

    assert checked(Foreign, FILE, {"name": "a", "tensorImageSize": "3D"}).name == "a"


def test_a_value_that_stands_twice_is_refused() -> None:
    check_unique(FILE, "labels", [1, 2, 3])
    with pytest.raises(MedvitError, match=r"set\.yaml: labels gives 2 twice"):
        check_unique(FILE, "labels", [1, 2, 2])
    assert shown("a" * 60) == f"'{'a' * 39}..."
