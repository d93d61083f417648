"""The words and numbers of a report in the reader's language."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from medvit.errors import MedvitError
from medvit.reports.quality import Flag
from medvit.studies.labels import Structure

MISSING = "–"


@dataclass(frozen=True)
class Language:
    """One language: its words, and how it writes numbers and dates.

    Parameters
    ----------
    code
        ``"en"``, ``"de"``, ``"fr"``.
    decimal, group
        Decimal and thousands separators.
    date_format
        Format for `datetime.date.strftime`.
    words
        Text by key.
    flags
        For each code of a flag: what was ``seen`` and what to ``do``, with placeholders for figures.
    structures
        Names of structures by their English name without a side; empty in English.
    """

    code: str
    decimal: str
    group: str
    date_format: str
    words: Mapping[str, str]
    flags: Mapping[str, Mapping[str, str]]
    structures: Mapping[str, str]

    def __getitem__(self, key: str) -> str:
        return self.words[key]

    def number(self, value: float | None, digits: int = 1, *, sign: bool = False) -> str:
        """A number with fixed decimals; a dash if it is missing or not finite."""
        if value is None or not math.isfinite(value):
            return MISSING
        text = f"{value:{'+' if sign else ''},.{digits}f}"
        return text.replace(",", "\0").replace(".", self.decimal).replace("\0", self.group).replace("-", "−")

    def ml(self, value: float | None) -> str:
        """A volume in ml to about three figures: 0.52, 8.54, 62.9, 287."""
        size = abs(value) if value is not None else 0.0
        # The bounds are those of the rounded figures: 9.996 is 10.0, not 10.00.
        return self.number(value, 2 if size < 9.995 else 1 if size < 99.95 else 0)

    def date(self, value: datetime.date | None) -> str:
        """A date as it is written in this language."""
        return value.strftime(self.date_format) if value else MISSING

    def structure(self, structure: Structure) -> str:
        """A structure's name in this language, its side included; English when it has no translation."""
        name = self.structures.get(structure.unsided_name)
        if name is None:
            return structure.name
        return f"{name} ({self.words[structure.side]})" if structure.side else name

    def pair(self, unsided_name: str) -> str:
        """The name that a pair shares."""
        return self.structures.get(unsided_name, unsided_name)

    def flag(self, flag: Flag, structures: Mapping[str, Structure]) -> tuple[str, str]:
        """What was seen and what to do, as sentences."""
        named = self.listing([self.structure(structures[n]) for n in flag.structures])
        values = {key: self._value(value) for key, value in flag.values.items()}
        words = self.flags[flag.code]
        return words["seen"].format(structures=named, **values), words["do"].format(
            structures=named, **values
        )

    def listing(self, names: Collection[str], most: int = 6) -> str:
        """Names with commas; beyond `most` only the number of further ones."""
        shown = ", ".join(list(names)[:most])
        return shown if len(names) <= most else f"{shown} {self['and_more'].format(count=len(names) - most)}"

    def _value(self, value: Any) -> str:
        if isinstance(value, (int, float)):
            return self.number(value, 1 if isinstance(value, float) else 0)
        if isinstance(value, list):
            return ", ".join(self.words.get(v, v) for v in value)
        return str(value)


@cache
def load_language(code: str) -> Language:
    """The language under `code`; a locale such as ``de_CH.UTF-8`` falls back to its language.

    Raises
    ------
    MedvitError
        If the language is unknown.
    """
    base = code.replace("-", "_").split("_")[0].split(".")[0].lower()
    folder = files("medvit.reports") / "locales"
    file = folder / f"{base}.json"
    if not base.isalpha() or not file.is_file():
        known = ", ".join(sorted(f.name.removesuffix(".json") for f in folder.iterdir()))
        raise MedvitError(f"there is no report in language {code!r}; choose one of {known}")
    return Language(base, **json.loads(file.read_text("utf-8")))
