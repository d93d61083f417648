"""Protocols of manual labels: read, checked against a label table, and recognised by their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medvit.bench.protocol import (
    Protocol,
    found_region,
    installed_protocols,
    read_protocol,
    recognise,
)
from medvit.errors import MedvitError
from medvit.studies.labels import load_label_table

BRAIN = load_label_table("brain")


def written(folder: Path, content: Any) -> Path:
    file = folder / "own.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_structure_may_be_made_of_several_values(tmp_path: Path) -> None:
    file = written(
        tmp_path, {"structures": {"left thalamus": 10, "hippocampus": [17, 53]}, "background": [99]}
    )
    protocol = read_protocol(file, BRAIN)
    assert protocol == Protocol("own", {"left thalamus": (10,), "hippocampus": (17, 53)}, frozenset({99}))
    assert [(s.name, s.values) for s in protocol.drawn()] == [
        ("left thalamus", (10,)),
        ("hippocampus", (17, 53)),
    ]
    assert protocol.unknown([0, 10, 99, 53, 54, 4, 54]) == [4, 54]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not a readable protocol"),
        ({"labels": {}}, "is not a readable protocol"),
        ([], "is not a readable protocol"),
        ({"structures": {"left thalamus": 0}}, "whole numbers from 1 to 65535 are expected"),
        ({"structures": {"left thalamus": True}}, "whole numbers from 1 to 65535 are expected"),
        ({"structures": {"left thalamus": [1, 1]}}, r"gives the values \[1\] more than one meaning"),
        ({"structures": {"left thalamus": 1}, "background": [1]}, r"gives the values \[1\] more than one"),
        (
            {"structures": {"left talamus": 1}},
            r"'left talamus' is not a structure of .* 'brain' \(did you mean 'left thalamus'\?\)",
        ),
    ],
)
def test_a_wrong_protocol_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(MedvitError, match=words):
        read_protocol(written(tmp_path, content), BRAIN)


def test_a_misspelt_protocol_gets_a_suggestion() -> None:
    with pytest.raises(MedvitError, match=r"no protocol 'freesurfr' \(did you mean 'freesurfer'\?\)"):
        read_protocol("freesurfr", BRAIN)


def test_installed_protocols_are_recognised_by_their_values() -> None:
    assert {"freesurfer", "neuromorphometrics"} <= set(installed_protocols())
    for name in installed_protocols():
        protocol = read_protocol(name, BRAIN)
        every = [value for values in protocol.structures.values() for value in values]
        assert recognise([0, *every], BRAIN) == protocol
    with pytest.raises(MedvitError, match="values that no protocol explains"):
        recognise([64000], BRAIN)


def test_a_name_without_a_side_is_both_sides() -> None:
    left, right = (BRAIN.by_name[f"{side} putamen"].value for side in ("left", "right"))
    assert found_region(BRAIN, "left putamen").values == (left,)
    assert found_region(BRAIN, "putamen").values == (left, right)
