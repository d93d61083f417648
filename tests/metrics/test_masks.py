"""Pairs of masks, and the boxes that hold them."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.metrics.masks import bounding_box, common_box, mask_pair


def test_a_mask_may_be_boolean_or_of_zeros_and_ones() -> None:
    a, b = mask_pair(np.array([0.0, 1.0]), np.array([True, False]))
    assert a.dtype == b.dtype == bool
    assert a.tolist() == [False, True]


@pytest.mark.parametrize("values", [[0, 2], [0.5, 1], [np.nan, 1], [-1, 0]])
def test_other_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="0 and 1"):
        mask_pair(np.array(values), np.array([0, 1]))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        mask_pair(np.zeros((2, 3)), np.zeros((3, 2)))


def test_the_box_is_the_smallest_and_the_margin_stays_inside() -> None:
    mask = np.zeros((6, 7, 8), bool)
    mask[2, 3, 1] = mask[4, 3, 7] = True
    assert bounding_box(mask) == (slice(2, 5), slice(3, 4), slice(1, 8))
    assert bounding_box(mask, 2) == (slice(0, 6), slice(1, 6), slice(0, 8))
    assert mask[bounding_box(mask)].sum() == 2


def test_an_empty_mask_has_an_empty_box() -> None:
    assert np.zeros((3, 3))[bounding_box(np.zeros((3, 3), bool))].size == 0


def test_the_common_box_is_that_of_the_union() -> None:
    a, b, empty = (np.zeros((9, 9), bool) for _ in range(3))
    a[1, 2], b[5, 8] = True, True
    assert common_box(a, b) == bounding_box(a | b) == (slice(1, 6), slice(2, 9))
    assert common_box(a, empty) == common_box(empty, a) == bounding_box(a)
