"""Recognition of texts that consist of words of the standard or technical words, and so name no one."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

# Names that manufacturers form by rule: kernels (B30f, Br40d, FC12), sequences (*tfl3d1_16ns), nuclei (1H),
# versions of software (VA48A) and short numbers.
_BY_RULE = re.compile(
    r"[ABDHIJQSTU][abcflmqrsuv]?\d{2}[a-z]?|FC\d{2}"
    r"|\*?(?:se|tse|tir|fl|tfl|ep|epfid|epse|spc|tfi|ci|cs)(?:[23]d)?\d{0,3}"
    r"|\d{0,3}(?:H|He|C|F|Na|P|Xe)|V[A-E]\d{2}[A-Z]|\d{1,3}(?:\.\d{1,3}){0,3}(?:ns|mm|kV|T)?"
)
_APART = re.compile(r"[\s/_,;:()\[\]+#&^-]+")


@cache
def _vocabulary() -> dict[str, Any]:
    return json.loads((files("medvit.studies.deidentification") / "terms.json").read_text())


@cache
def _terms() -> frozenset[str]:
    words = _vocabulary()["terms"]
    return frozenset(term for line in words for term in line.split("|"))


@cache
def _words() -> frozenset[str]:
    words = {word.casefold() for line in _vocabulary()["words"] for word in line.split()}
    return frozenset(words | {word.casefold() for term in _terms() for word in _APART.split(term) if word})


@cache
def _meanings() -> dict[tuple[str, str], str]:
    """(scheme, value) to meaning: the codes of PS3.16, and those of our own label tables."""
    from pydicom.sr.codedict import codes

    known = {}
    for scheme in codes.schemes():
        collection = getattr(codes, scheme)
        for keyword in collection.dir():
            code = getattr(collection, keyword)
            known[code.scheme_designator, code.value] = code.meaning
    for path in (files("medvit.studies") / "label_tables").iterdir():
        if path.name.endswith(".json"):
            _add_codes(json.loads(path.read_text()), known)
    for scheme, value, meaning in _vocabulary()["codes"]:
        known[scheme, value] = meaning
    return known


def _add_codes(node: Any, known: dict[tuple[str, str], str]) -> None:
    if isinstance(node, dict):
        if {"value", "meaning"} <= node.keys() and isinstance(node["value"], str):
            known.setdefault((node.get("scheme", "SCT"), node["value"]), node["meaning"])
        for below in node.values():
            _add_codes(below, known)
    elif isinstance(node, list):
        for below in node:
            _add_codes(below, known)


@cache
def structure_names() -> frozenset[str]:
    """Names of the structures of our own label tables."""
    from medvit.studies.labels import load_label_table

    tables = (files("medvit.studies") / "label_tables").iterdir()
    stems = [path.name.removesuffix(".json") for path in tables if path.name.endswith(".json")]
    return frozenset(s.name for stem in stems for s in load_label_table(stem).structures)


def is_term(value: str) -> bool:
    """Whether a value of VR CS is a term of the standard, or of a manufacturer whose terms are public."""
    return value.strip() in _terms()


def is_trade(text: str) -> bool:
    """Whether a text consists only of technical words, short numbers, and names formed by rule."""
    if _BY_RULE.fullmatch(text.strip()):
        return True
    parts = [part for part in _APART.split(text) if part]
    return all(part.casefold() in _words() or _BY_RULE.fullmatch(part) for part in parts)


def meaning_of(scheme: str, value: str) -> str:
    """The meaning of a code in the standard; ``""`` for an unknown code."""
    return _meanings().get((scheme, value), "")
