"""Facts that a report may state about a patient: readable name, age, sex, technical facts of the scan."""

from __future__ import annotations

import datetime
import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

Sex = Literal["F", "M"]

# Facts of a series that do not identify anybody. Descriptions, protocol, body part and date are free text or
# quasi-identifiers and are shown only together with the patient.
TECHNICAL_FACTS = frozenset(
    {
        "modality", "manufacturer", "model", "field_strength", "slice_thickness", "kvp", "echo_time",
        "repetition_time", "inversion_time", "flip_angle", "contrast", "units", "shape", "spacing", "plane",
        "tilted", "lossy", "burned_in", "photometric",
    }
)  # fmt: skip
_AGE_UNITS = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


def technical_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a series that may appear in a report that does not name the patient."""
    return {name: value for name, value in facts.items() if name in TECHNICAL_FACTS}


def display_name(person_name: str) -> str:
    """A DICOM person name in readable form: ``Wang^XiaoDong=王^小東`` becomes ``Wang, XiaoDong (王 小東)``.

    References
    ----------
    DICOM PS3.5, 6.2.1: the alphabetic, ideographic and phonetic groups, each with five components.
    """
    groups = [_person(group, i) for i, group in enumerate(person_name.split("="))]
    shown = [group for group in groups if group]
    return f"{shown[0]} ({', '.join(shown[1:])})" if len(shown) > 1 else "".join(shown)


def _person(group: str, index: int) -> str:
    family, given, middle, prefix, suffix = ([part.strip() for part in group.split("^")] + [""] * 5)[:5]
    if index:  # ideographic and phonetic names are not separated by a comma
        return " ".join(filter(None, (family, given, middle)))
    rest = " ".join(filter(None, (prefix, given, middle)))
    return ", ".join(filter(None, (family, rest, suffix)))


def age_in_years(patient: Mapping[str, Any], study_date: datetime.date | None) -> float | None:
    """Age at the time of the study, from the header's age or else from birth date and study date.

    Parameters
    ----------
    patient
        ``age`` as a number of years or as DICOM writes it (``063Y``), ``birth_date`` (YYYYMMDD).
    """
    stated = patient.get("age")
    if isinstance(stated, (int, float)):
        return float(stated) if math.isfinite(stated) and 0 <= stated < 130 else None
    if match := re.fullmatch(r"(\d{1,3})([DWMY])", str(stated or "").strip()):
        return int(match[1]) / _AGE_UNITS[match[2]]
    try:
        born = datetime.date.fromisoformat(str(patient.get("birth_date") or ""))
    except ValueError:
        return None
    if study_date is None or not 0 <= (study_date - born).days < 130 * 365.25:
        return None
    return (study_date - born).days / 365.25


def patient_sex(patient: Mapping[str, Any]) -> Sex | None:
    """``"F"`` or ``"M"``; `None` for what the published norms do not cover (other, unknown)."""
    sex = str(patient.get("sex") or "").strip().upper()[:1]
    return "F" if sex == "F" else "M" if sex == "M" else None


def patient_check(patient: Mapping[str, Any]) -> str | None:
    """Four hexadecimal digits that distinguish the results of two patients.

    There are 65,536 values, so that a hospital has many patients for each: the digits do not identify
    anybody, yet results of another patient pass only once in 65,536 times. `None` without an identifier.
    """
    identifier = str(patient.get("id") or "").strip()
    return hashlib.sha256(f"medvit|{identifier}".encode()).hexdigest()[:4] if identifier else None
