"""Calibration: by hand, and on labels drawn with the stated probability."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.metrics import pooled, reliability, segmentation_reliability


def test_by_hand() -> None:
    found = reliability([0.95, 0.85, 0.55, 0.55], [1, 0, 1, 0], bins=2)
    assert found.count.tolist() == [0, 4]
    assert found.ece == pytest.approx(0.725 - 0.5)
    found = reliability([0.9, 0.9, 0.6, 0.6], [1, 1, 0, 0], bins=10)
    assert found.ece == pytest.approx((2 * 0.1 + 2 * 0.6) / 4)
    assert found.mce == pytest.approx(0.6)
    assert found.count[8] == found.count[5] == 2  # a bin holds its upper bound


def test_outcomes_drawn_with_the_stated_probability_are_calibrated() -> None:
    random = np.random.default_rng(0)
    p = random.random(100_000)
    drawn = random.random(p.size) < p
    assert reliability(p, drawn).ece < 0.01
    assert reliability(p**3, drawn).ece > 0.2


def test_of_a_label_map() -> None:
    probabilities = np.array([[[0.7, 0.2]], [[0.3, 0.8]]])
    right, wrong = np.array([[0, 1]]), np.array([[1, 0]])
    assert segmentation_reliability(probabilities, right).ece == pytest.approx(0.25)
    assert segmentation_reliability(probabilities, wrong).ece == pytest.approx(0.75)


def test_studies_together_are_as_their_voxels_together() -> None:
    random = np.random.default_rng(1)
    p, right = random.random(3000), random.random(3000) < 0.5
    p[:500] *= 0.1  # the first study has empty bins
    alone = [reliability(p[a:b], right[a:b]) for a, b in ((0, 500), (500, 3000), (3000, 3000))]
    together, expected = pooled(alone), reliability(p, right)
    np.testing.assert_allclose(together.confidence, expected.confidence)
    np.testing.assert_allclose(together.accuracy, expected.accuracy)
    assert together.ece == pytest.approx(expected.ece)


def test_bounds_and_nothing() -> None:
    assert reliability([0.0, 1.0], [0, 1]).ece == 0
    assert np.isnan(reliability([], []).ece)
    assert np.isnan(reliability([], []).mce)


@pytest.mark.parametrize("confidence", [[1.2], [-0.1], [np.nan]])
def test_logits_are_refused(confidence: list[float]) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        reliability(confidence, [1])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes must agree"):
        reliability([[0.5, 0.5]], [1, 0])
    with pytest.raises(ValueError, match="probabilities must be"):
        segmentation_reliability(np.full((2, 3, 3), 0.5), np.zeros((3, 4), int))
