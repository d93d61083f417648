"""Structures by the values of a label map, from every kind of table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.evaluation.structures import (
    IGNORE,
    ScoredStructure,
    matched,
    read_regions,
    regions_beside,
    regions_of_values,
)


def written(folder: Path, content: Any, name: str = "dataset.json") -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def values_of(regions: tuple[ScoredStructure, ...]) -> dict[str, tuple[int, ...]]:
    return {region.name: region.values for region in regions}


def test_a_mask_has_all_values_of_a_structure() -> None:
    label_map = np.array([0, 1, 2, 3, 1])
    assert ScoredStructure("x", (1,)).mask(label_map).tolist() == [False, True, False, False, True]
    assert ScoredStructure("x", (1, 3)).mask(label_map).tolist() == [False, True, False, True, True]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"background": 0, "liver": 1, "tumour": 2}, {"liver": (1,), "tumour": (2,)}),
        (
            {"0": "background", "1": "liver", "7": "tumour"},
            {"background": (0,), "liver": (1,), "tumour": (7,)},
        ),
        ({"labels": {"background": 0, "all": [1, 2], "core": 2}}, {"all": (1, 2), "core": (2,)}),
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, {"a": (1,), IGNORE: (2,)}),
    ],
)
def test_names_and_values_may_stand_either_way(
    tmp_path: Path, content: Any, expected: dict[str, tuple[int, ...]]
) -> None:
    expected.pop("background", None)
    assert values_of(read_regions(written(tmp_path, content))) == expected


def test_a_manifest_gives_the_values_of_its_files_and_its_regions(tmp_path: Path) -> None:
    manifest = """
name: own
labels:
  - {value: 2, name: left kidney, side: left, code: {value: "64033007", meaning: Kidney}}
  - {value: 5, name: cyst}
regions: {all: [left kidney, cyst]}
ignore: 9
layouts: [{images: "{case}.nii.gz"}]
"""
    regions = read_regions(written(tmp_path, manifest, "own.yaml"))
    assert values_of(regions) == {"left kidney": (2,), "cyst": (5,), "all": (2, 5), IGNORE: (9,)}
    # Private codes say no more than names.
    assert [region.code for region in regions] == ["SCT 64033007 left", "", "", ""]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not a readable label table"),
        ([1], "is not a readable label table"),
        ({"background": 0}, "does not name any structure"),
        ({"liver": 1.5}, "where values from 0 to 65535 are expected"),
        ({"liver": True}, "where values from 0 to 65535 are expected"),
        ({"liver": []}, "where values from 0 to 65535 are expected"),
        ({"liver": 70000}, "where values from 0 to 65535 are expected"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(MedvitError, match=words):
        read_regions(written(tmp_path, content))


def test_an_unknown_table_is_refused_and_an_installed_one_is_not() -> None:
    assert values_of(read_regions("brain"))["left thalamus"]
    with pytest.raises(MedvitError, match="is neither a file nor a label table"):
        read_regions("brian")


def test_names_stand_beside_a_label_map(tmp_path: Path) -> None:
    written(tmp_path, {"1": "liver"}, "labels.json")
    assert values_of(regions_beside(tmp_path / "labels.nii.gz")) == {"liver": (1,)}
    assert regions_beside(tmp_path / "other.nii.gz") == ()
    assert values_of(regions_of_values({0, 7, 3})) == {"label 3": (3,), "label 7": (7,)}


def test_segments_match_by_name_and_else_by_a_code_that_occurs_once() -> None:
    wanted = (
        ScoredStructure("left kidney", (1,), "SCT 1 left"),
        ScoredStructure("spleen", (2,), "SCT 2 "),
        ScoredStructure("liver", (3,), "SCT 3 "),
        ScoredStructure("aorta", (4,), ""),
    )
    segments = (
        ScoredStructure("LEFT_Kidney", (7,), "SCT 9 "),
        ScoredStructure("milt", (8,), "SCT 2 "),
        ScoredStructure("tissue one", (9,), "SCT 3 "),
        ScoredStructure("tissue two", (5,), "SCT 3 "),
        ScoredStructure("unnamed", (6,), ""),
    )
    assert matched(wanted, segments) == (segments[0], segments[1], None, None)
