"""Centre-line Dice: blind to width, strict about branches, and not fooled by tubes of an even width."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.metrics import centreline_dice, dice


def tube(length: int, width: int, *, branch: bool = False) -> np.ndarray:
    mask = np.zeros((60, 40, 20), bool)
    mask[5 : 5 + length, 10 : 10 + width, 10 : 10 + width] = True
    if branch:
        mask[30 : 30 + width, 10:35, 10 : 10 + width] = True
    return mask


@pytest.mark.parametrize("width", [1, 2, 3, 4, 6])
def test_equal_tubes_score_one_whatever_their_width(width: int) -> None:
    assert centreline_dice(tube(50, width), tube(50, width)) == 1


def test_width_matters_less_than_for_dice() -> None:
    thin, thick = tube(50, 3), tube(50, 5)
    assert dice(thin, thick) < 0.6
    assert centreline_dice(thin, thick) > 0.95


def test_half_of_a_tube() -> None:
    # Precision is 1 and sensitivity about a half.
    assert centreline_dice(tube(25, 3), tube(50, 3)) == pytest.approx(2 / 3, abs=0.04)


def test_a_missed_branch_costs_its_length() -> None:
    whole = tube(50, 3, branch=True)
    assert centreline_dice(tube(50, 3), whole) == pytest.approx(2 * 0.7 / 1.7, abs=0.05)


def test_empty_and_apart() -> None:
    empty, full = np.zeros((60, 40, 20), bool), tube(50, 3)
    assert np.isnan(centreline_dice(empty, empty))
    assert centreline_dice(empty, full) == centreline_dice(full, empty) == 0
    assert centreline_dice(full, np.roll(full, 8, axis=2)) == 0


def test_two_dimensions_but_not_four() -> None:
    assert centreline_dice(tube(50, 3)[:, :, 11], tube(50, 3)[:, :, 11]) == 1
    with pytest.raises(ValueError, match="two or three axes"):
        centreline_dice(np.ones((2, 2, 2, 2)), np.ones((2, 2, 2, 2)))
