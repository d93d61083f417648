"""Scores of published tables, on masks whose overlap and distances are counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medvit.training.recipes.scores import (
    CaseScores,
    WindowedPSNR,
    WindowedRMSE,
    WindowedSSIM,
    dice_absent_is_zero,
    dice_where_present,
    nnformer_dice,
    nnformer_hd95,
    transunet_dice,
    transunet_hd95,
)

NAN = float("nan")


def line(*filled: int) -> np.ndarray:
    """A row of 12 voxels, of which some are filled, in a box with room around it."""
    mask = np.zeros((12, 3, 3), bool)
    mask[list(filled), 1, 1] = True
    return mask


HALF = (line(2, 3), line(3, 4))  # one voxel in common: Dice 2 * 1 / (2 + 2)
MISSED, INVENTED, NEITHER = (line(), line(3)), (line(3), line()), (line(), line())


@pytest.mark.parametrize(
    ("score", "half", "missed", "invented", "neither"),
    [
        (dice_where_present, 0.5, 0.0, NAN, NAN),
        (nnformer_dice, 0.5, 0.0, 0.0, 1.0),
        (transunet_dice, 0.5, 0.0, 1.0, 0.0),
        (dice_absent_is_zero, 0.5, 0.0, 0.0, 0.0),
        (nnformer_hd95, 1.0, 0.0, 0.0, 0.0),
        (transunet_hd95, 1.0, 0.0, 0.0, 0.0),
    ],
)
def test_each_table_has_its_own_rule_for_empty_masks(
    score: Callable[[np.ndarray, np.ndarray], float],
    half: float, missed: float, invented: float, neither: float,
) -> None:  # fmt: skip
    found = [score(*pair) for pair in (HALF, MISSED, INVENTED, NEITHER)]
    assert found == pytest.approx([half, missed, invented, neither], nan_ok=True)


def test_hd95_is_taken_over_both_directions_together() -> None:
    # Distances 0 (five voxels, both ways) and 5, from one voxel: the 95th percentile of 0 x 10 and one 5.
    prediction, reference = line(0, 1, 2, 3, 4, 9), line(0, 1, 2, 3, 4)
    expected = np.percentile([0.0] * 10 + [5.0], 95)
    assert 0 < expected < 5
    assert nnformer_hd95(prediction, reference) == pytest.approx(expected)
    assert transunet_hd95(prediction, reference) == pytest.approx(expected)


def test_the_aggregate_is_the_mean_over_structures_of_means_over_cases() -> None:
    scores = CaseScores(dice_where_present, structures=(1, 2))
    prediction = torch.tensor([[[1, 1, 0, 2]], [[1, 0, 0, 0]]])
    reference = torch.tensor([[[1, 0, 0, 2]], [[1, 0, 0, 0]]])
    scores(prediction, reference)
    # Structure 1 has 2/3 and 1; structure 2 has 1 in the only case in which it occurs.
    assert float(scores.aggregate()) == pytest.approx((5 / 6 + 1) / 2)


def test_channels_are_scored_one_by_one() -> None:
    scores = CaseScores(lambda a, b: float(np.abs(a - b).mean()))
    scores(torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]), torch.tensor([[[1.0, 1.0], [0.0, 4.0]]]))
    assert float(scores.aggregate()) == pytest.approx((1 + 2) / 2)
    with pytest.raises(ValueError, match="cannot score"):
        scores(torch.zeros(1, 1, 2), torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="cannot score"):
        CaseScores(nnformer_dice, structures=(1,))(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))


def test_images_are_cut_to_the_window_before_they_are_compared() -> None:
    reference = np.zeros((16, 16, 2))
    restored = reference.copy()
    restored[..., 0] = 10.0
    restored[..., 1] = -500.0  # below the window, as the reference is at its edge
    window = (0.0, 100.0)
    assert WindowedRMSE(window)(restored, reference) == pytest.approx((10 + 0) / 2)
    # 20 log10(100 / 10); the second slice is restored exactly and has no PSNR.
    assert WindowedPSNR(window)(restored, reference) == pytest.approx(20.0)
    assert np.isnan(WindowedPSNR(window)(reference, reference))
    assert WindowedSSIM(window)(reference, reference) == pytest.approx(1.0)
    # A constant difference of 10 from 0: (2 * 0 + 1) / (100 + 1) with C1 = (0.01 * 100)^2.
    assert WindowedSSIM(window)(restored, reference) == pytest.approx((1 / 101 + 1) / 2)


def test_dice_and_hd95_of_filled_masks() -> None:
    full = np.ones((4, 4, 4), bool)
    half = np.indices((4, 4, 4))[0] < 2
    for dice in (dice_where_present, dice_absent_is_zero, nnformer_dice, transunet_dice):
        assert dice(half, full) == pytest.approx(2 * 32 / (32 + 64))
    # The surface of the half: 2 voxels from the far face of the whole.
    assert nnformer_hd95(half, full) == transunet_hd95(half, full) == pytest.approx(2.0)


def test_case_scores_average_cases_and_then_structures() -> None:
    reference = torch.tensor([1, 1, 2, 0]).reshape(1, 1, 1, 1, 4)
    without_two = torch.tensor([1, 1, 0, 0]).reshape(1, 1, 1, 1, 4)
    metric = CaseScores(dice_where_present, [1, 2])
    metric(torch.tensor([1, 0, 2, 0]).reshape(1, 1, 1, 1, 4), reference)  # 2/3 and 1
    metric(without_two, without_two)  # 1 and nothing
    np.testing.assert_allclose(metric.get_buffer(), [[2 / 3, 1], [1, np.nan]], rtol=1e-6)
    assert metric.aggregate() == pytest.approx(((2 / 3 + 1) / 2 + 1) / 2)


def test_case_scores_of_masks_that_overlap_are_by_channel() -> None:
    reference = torch.tensor([[1, 1, 0], [1, 0, 0]]).reshape(1, 2, 3, 1, 1)
    prediction = torch.tensor([[1, 1, 0], [0, 1, 0]]).reshape(1, 2, 3, 1, 1)
    np.testing.assert_allclose(CaseScores(dice_where_present)(prediction, reference), [[1, 0]])
    with pytest.raises(ValueError, match="cannot score"):
        CaseScores(dice_where_present, [1])(prediction, reference)


def test_restoration_is_scored_inside_the_window() -> None:
    reference = np.random.default_rng(0).uniform(-160, 240, (16, 16, 2))
    reference[0, 0] = 2000  # above the window in both: no error
    restored = reference + 4.0
    restored[reference > 236] = reference[reference > 236]
    restored[0, 0] = 3000
    error = np.sqrt(np.mean((np.clip(restored, -160, 240) - np.clip(reference, -160, 240)) ** 2))
    assert WindowedRMSE((-160, 240))(restored, reference) == pytest.approx(error, rel=0.02)
    assert WindowedPSNR((-160, 240))(restored, reference) == pytest.approx(
        20 * np.log10(400 / error), abs=0.1
    )
    assert WindowedSSIM((-160, 240))(reference, reference) == 1.0
    assert np.isnan(WindowedPSNR((-160, 240))(reference, reference))
