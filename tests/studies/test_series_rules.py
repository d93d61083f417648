"""Rules take the series that they describe, and say of every other one what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from medvit.errors import MedvitError
from medvit.studies.series_rules import SeriesRules

SERIES: dict[str, Any] = {
    "modality": "MR", "image_type": ("ORIGINAL", "PRIMARY"), "series_description": "T1 MPRAGE sag",
    "body_part": "HEAD", "contrast": False, "plane": "sagittal", "slice_thickness": 1.0,
    "spacing": (1.0, 1.0, 1.2), "shape": (256, 256, 176),
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "objection"),
    [
        ({}, ""),
        ({"modality": ("CT", "MR")}, ""),
        ({"modality": ("CT",)}, "its modality is MR"),
        ({"image_type": ("original",)}, ""),
        ({"image_type": ("DERIVED",)}, "its image type lacks DERIVED"),
        ({"not_image_type": ("primary",)}, "its image type has primary"),
        ({"description": "mprage|t1"}, ""),
        ({"description": "flair"}, "its description does not match 'flair'"),
        ({"not_description": "sag"}, "its description matches 'sag'"),
        ({"body_part": "^head$"}, ""),
        ({"body_part": "knee"}, "its body part does not match 'knee'"),
        ({"contrast": False}, ""),
        ({"contrast": True}, "no contrast agent was given"),
        ({"plane": "axial"}, "its plane is sagittal"),
        ({"max_slice_thickness": 1.2}, ""),
        ({"max_slice_thickness": 1.1}, "its slices are 1.2 mm thick"),
        ({"min_slices": 177}, "it has 176 slices"),
    ],
)
def test_the_first_objection_is_named(rule: dict[str, Any], objection: str) -> None:
    assert SeriesRules(**rule).objection(SERIES) == objection


def test_a_broken_series_is_judged_by_what_is_known_of_it() -> None:
    broken = {"modality": "MR", "series_description": "T1", "problem": "slices are missing"}
    assert SeriesRules(modality=("MR",), plane="axial", min_slices=20).objection(broken) == ""
    assert SeriesRules(modality=("CT",)).objection(broken) == "its modality is MR"
    assert SeriesRules(contrast=True).objection({"contrast": True}) == ""
    assert SeriesRules(contrast=False).objection({"contrast": True}) == "a contrast agent was given"


def test_a_pattern_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(MedvitError, match=r"'\(T1' is not a regular expression"):
        SeriesRules(description="(T1")
