"""TransUNet's Dice and HD95: in voxels, both directions together, and with rules for empty masks."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.metrics.transunet import transunet_scores


def row(*filled: int) -> np.ndarray:
    mask = np.zeros((10, 1, 1), np.uint8)
    mask[list(filled)] = 1
    return mask


def test_an_empty_prediction_lowers_both_and_an_empty_reference_only_the_distance() -> None:
    assert transunet_scores(row(), row(2)) == (0.0, 0.0)
    assert transunet_scores(row(), row()) == (0.0, 0.0)
    assert transunet_scores(row(2), row()) == (1.0, 0.0)


def test_distances_are_voxels_of_both_directions_together() -> None:
    # From the prediction 0 and 3 voxels, from the reference 0: the 95th percentile of 0, 0, 3.
    scores = transunet_scores(row(2, 5), row(2))
    assert scores.dice == pytest.approx(2 / 3)
    assert scores.hd95_voxels == pytest.approx(np.percentile([0, 0, 3], 95))
    assert scores.hd95_voxels == pytest.approx(2.7)


def test_label_maps_of_several_structures_are_refused() -> None:
    with pytest.raises(ValueError, match="compare one structure at a time"):
        transunet_scores(2 * row(1), row(1))
