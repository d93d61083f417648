"""Overlap and volumes by hand, and the rules of TransUNet's table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt

from medvit.metrics import dice, hd95, iou, transunet_scores, volume_error, volume_ml
from tests.metrics.shapes import lobed_pair

EMPTY = np.zeros((4, 4, 4), bool)
FULL = np.ones((4, 4, 4), bool)


def test_overlap_by_hand() -> None:
    prediction, reference = np.array([1, 1, 1, 0, 0]), np.array([0, 1, 1, 1, 1])
    assert dice(prediction, reference) == pytest.approx(4 / 7)
    assert iou(prediction, reference) == pytest.approx(2 / 5)


def test_volumes_are_in_millilitres() -> None:
    prediction = FULL.copy()
    prediction[0] = False
    assert volume_ml(FULL, 1.5) == pytest.approx(0.096)
    error = volume_error(prediction, FULL, 1.5)
    assert error.ml == pytest.approx(-0.024)
    assert error.percent == pytest.approx(-25.0)


def test_empty_masks() -> None:
    assert np.isnan([dice(EMPTY, EMPTY), iou(EMPTY, EMPTY)]).all()
    assert dice(EMPTY, FULL) == dice(FULL, EMPTY) == iou(FULL, EMPTY) == 0
    assert np.isnan(volume_error(FULL, EMPTY, 1.0).percent)
    assert volume_error(EMPTY, FULL, 1.0).percent == -100


def test_transunet_counts_voxels_and_pools_both_directions() -> None:
    prediction, reference = lobed_pair()
    borders = [mask & ~binary_erosion(mask) for mask in (prediction, reference)]
    distances = [
        distance_transform_edt(~other)[own] for own, other in (borders, borders[::-1])
    ]  # as the evaluation of that paper takes them
    scores = transunet_scores(prediction, reference)
    assert scores.dice == dice(prediction, reference)
    assert scores.hd95_voxels == pytest.approx(np.percentile(np.hstack(distances), 95))
    assert scores.hd95_voxels != pytest.approx(hd95(prediction, reference, (1, 1, 3)))


def test_transunet_counts_empty_masks() -> None:
    assert transunet_scores(EMPTY, EMPTY) == (0, 0)
    assert transunet_scores(EMPTY, FULL) == (0, 0)
    assert transunet_scores(FULL, EMPTY) == (1, 0)
