"""The parts that bundles are written from: templates, and how one is laid over another.

A specification is a dictionary of sections, one for each file below ``configs/``. It may name a template of
this folder under ``"template"``, which is a specification itself; its own entries are then laid over those
of the template.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

Specification = dict[str, Any]

# MONAI lays these files over others itself, so that an identifier such as "a#b" stands in them as it is.
_OVERRIDES = ("evaluate", "multi_gpu_train", "multi_gpu_evaluate")


def resolve(specification: Mapping[str, Any]) -> Specification:
    """All sections of a specification, laid over those of its template.

    Raises
    ------
    FileNotFoundError
        If there is no template of that name.
    """
    base: Specification = {}
    if name := specification.get("template"):
        base = resolve(json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8")))
    for section, entries in specification.items():
        if section in _OVERRIDES:
            base[section] = base.get(section, {}) | entries
        elif section != "template":
            base[section] = overlay(base.get(section, {}), entries)
    return base


def overlay(base: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `entries` laid over it, in MONAI's notation.

    ``"a#b"`` replaces the entry ``b`` within ``a``, and ``"+a"`` adds to the list or dictionary ``a``.

    Examples
    --------
    >>> overlay({"a": {"b": 1, "c": 2}, "d": [1]}, {"a#b": 3, "+d": [2]})
    {'a': {'b': 3, 'c': 2}, 'd': [1, 2]}
    """
    result = copy.deepcopy(dict(base))
    for key, value in entries.items():
        *outer, last = key.removeprefix("+").split("#")
        place = result
        for name in outer:
            place = place.setdefault(name, {})
        if not key.startswith("+") or last not in place:
            place[last] = copy.deepcopy(value)
        elif isinstance(value, dict):
            place[last] |= value
        else:
            place[last] = [*place[last], *value]
    return result
