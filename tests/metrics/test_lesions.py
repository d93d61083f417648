"""Lesion-wise scores: every rule of BraTS 2023 on lesions placed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.metrics import LesionScores, dice, hd95, lesion_scores

SHAPE = (60, 30, 30)
MM = (1.0, 1.0, 1.0)


def boxes(*starts: tuple[int, int, int], size: int = 5) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for x, y, z in starts:
        mask[x : x + size, y : y + size, z : z + size] = True
    return mask


def test_found_missed_and_made_up() -> None:
    reference = boxes((5, 5, 5), (40, 5, 5))
    prediction = boxes((6, 5, 5), (5, 20, 20))
    scores = lesion_scores(prediction, reference, MM)
    assert (scores.found, scores.missed, scores.false) == (1, 1, 1)
    assert scores.dice == pytest.approx(0.8 / 3)
    assert scores.hd95 == pytest.approx((1 + 2 * 374) / 3)
    assert scores.sensitivity == scores.f1 == 0.5


def test_lesions_that_meet_when_grown_are_one() -> None:
    six_apart = boxes((5, 5, 5), (16, 5, 5))
    assert lesion_scores(six_apart, six_apart, MM, dilation=3).found == 1
    assert lesion_scores(six_apart, six_apart, MM, dilation=2).found == 2
    seven_apart = boxes((5, 5, 5), (17, 5, 5))
    assert lesion_scores(seven_apart, seven_apart, MM, dilation=3).found == 2


def test_all_pieces_near_a_lesion_are_its_prediction() -> None:
    reference = boxes((5, 5, 5))
    prediction = boxes((5, 5, 5), size=3) | boxes((12, 5, 5), size=2)
    scores = lesion_scores(prediction, reference, MM)
    assert (scores.found, scores.false) == (1, 0)
    assert scores.dice == pytest.approx(dice(prediction, reference))
    assert scores.hd95 == pytest.approx(hd95(prediction, reference, MM))
    assert lesion_scores(prediction, reference, MM, dilation=1).false == 1


def test_small_lesions_do_not_count_and_what_meets_them_is_not_false() -> None:
    reference = boxes((5, 5, 5)) | boxes((40, 5, 5), size=3)
    assert lesion_scores(boxes((5, 5, 5)), reference, MM).missed == 0
    assert lesion_scores(reference, reference, MM) == LesionScores(1.0, 0.0, 1, 0, 0)
    # The threshold is in mm^3: the same lesion on a coarser grid counts.
    assert lesion_scores(boxes((5, 5, 5)), reference, (2, 1, 1)).missed == 1


def test_sheared_and_flipped_grids_have_the_same_volumes() -> None:
    reference = boxes((5, 5, 5)) | boxes((40, 5, 5), size=3)
    steps = np.diag([-1.0, -1.0, 1.0])
    assert lesion_scores(boxes((5, 5, 5)), reference, steps).missed == 0


def test_lesions_at_the_border_and_nothing_at_all() -> None:
    corner = boxes((0, 0, 0), (55, 25, 25))
    assert lesion_scores(corner, corner, MM) == LesionScores(1.0, 0.0, 2, 0, 0)
    nothing = boxes()
    assert lesion_scores(nothing, nothing, MM) == LesionScores(1.0, 0.0, 0, 0, 0)
    assert lesion_scores(corner, nothing, MM) == LesionScores(0.0, 374.0, 0, 0, 2)
    assert lesion_scores(nothing, corner, MM) == LesionScores(0.0, 374.0, 0, 2, 0)
    assert np.isnan(
        [lesion_scores(nothing, nothing, MM).f1, lesion_scores(nothing, nothing, MM).sensitivity]
    ).all()


def test_a_slice_has_no_lesions() -> None:
    with pytest.raises(ValueError, match="three axes"):
        lesion_scores(np.ones((5, 5)), np.ones((5, 5)), (1, 1))
