"""PI-CAI's score in a training: of all cases together, and 0 until it means something."""

from __future__ import annotations

import pytest
import torch

from medvit.training.recipes.detection import PICAIScore


def case(place: int | None) -> torch.Tensor:
    """(1, 1, 16, 16, 8) with a lesion of 4 x 4 x 4 voxels at a place along the first axis."""
    volume = torch.zeros(1, 1, 16, 16, 8)
    if place is not None:
        volume[:, :, place : place + 4, 4:8, 2:6] = 1
    return volume


def test_the_score_is_that_of_all_cases_together() -> None:
    score = PICAIScore()
    found = score(0.9 * case(2), case(2))
    assert found.tolist() == [[pytest.approx(0.9)]]  # the confidence of the case
    assert float(score.aggregate()) == 0, "without a healthy case there is no AUC"
    score(0.2 * case(9), case(None))
    # The lesion is found before the false alarm: AUC and average precision of 1.
    assert float(score.aggregate()) == pytest.approx(1)
    score(case(None), case(9))
    # A lesion that is missed: of two, one; the healthy case is now above one that has a lesion.
    assert 0 < float(score.aggregate()) < 1


def test_a_reset_forgets_the_cases() -> None:
    score = PICAIScore()
    score(torch.cat([0.9 * case(2), case(None)]), torch.cat([case(2), case(None)]))
    assert len(score.found) == 2 and float(score.aggregate()) == pytest.approx(1)
    score.reset()
    assert score.found == []


def test_maps_of_other_shapes_are_refused() -> None:
    for prediction, reference in ((case(2), case(2)[..., :4]), (case(2).repeat(1, 2, 1, 1, 1),) * 2):
        with pytest.raises(ValueError, match="cannot score"):
            PICAIScore()(prediction, reference)
