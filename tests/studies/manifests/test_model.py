"""A manifest: values of files in those of its table, and the splits of a case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.studies.manifests.model import Manifest


def manifest(count: int = 2, **fields: object) -> Manifest:
    """Structures with the values 10, 20, ... in files."""
    stated = {"values": tuple(10 * n for n in range(1, count + 1))} | fields
    return Manifest(Path("m.yaml"), "own", **stated)  # type: ignore[arg-type]


def test_values_of_files_become_those_of_the_table() -> None:
    own = manifest(background=(7,), ignore=99)
    assert own.known_values == {0, 7, 10, 20, 99}
    table = own.to_table(np.array([[0, 7], [10, 20], [99, 0]], np.int16))
    assert table.dtype == np.uint8 and table.tolist() == [[0, 0], [1, 2], [3, 0]]
    assert own.to_table(np.array([20.0, 10.0])).tolist() == [2, 1]


@pytest.mark.parametrize("value", [1, 11, -10, 10.5])
def test_unknown_values_are_refused(value: float) -> None:
    with pytest.raises(MedvitError, match=f"holds {value:g}, which own does not know"):
        manifest().to_table(np.array([0, 10, value]))


@pytest.mark.parametrize(("count", "dtype"), [(254, np.uint8), (255, np.uint16)])
def test_many_structures_need_wider_values(count: int, dtype: type) -> None:
    own = manifest(count, ignore=1)
    table = own.to_table(np.array([0, 10 * count, 1]))
    # The unlabelled voxels have the value after the last structure's.
    assert table.dtype == dtype and table.tolist() == [0, count, count + 1]


@pytest.mark.parametrize(
    ("case", "labelled", "expected"),
    [
        ("p7_a", True, ["rest", "seven"]),
        ("p7_a", False, ["seven"]),
        ("p8", True, ["rest"]),
        ("p9", True, ["test"]),
        ("P7_a", True, ["rest"]),
        ("unlisted", False, []),
    ],
)
def test_patterns_choose_and_leave_out(case: str, labelled: bool, expected: list[str]) -> None:
    own = manifest(splits={"rest": ("*", "!p9"), "seven": ("p7_*",), "test": ("p9",)})
    assert own.splits_of(case, is_labelled=labelled) == expected
