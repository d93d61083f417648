"""Surface distances: equal to MONAI's, right where they can be told by hand, defined for empty masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

from medvit.metrics import assd, hd95, surface_dice, surface_distances
from tests.metrics.shapes import PAIRS, ball, lobed_pair

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 3.0), (2.5, 0.4, 1.1)]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("pair", PAIRS)
def test_values_are_monais(pair: str, spacing: tuple[float, ...]) -> None:
    prediction, reference = PAIRS[pair]()
    both = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    distances = surface_distances(prediction, reference, spacing)
    for percentile in (95, 50, 100):
        theirs = compute_hausdorff_distance(*both, percentile=percentile, **options)
        assert distances.hausdorff(percentile) == pytest.approx(float(theirs), rel=1e-5)
    theirs = compute_average_surface_distance(*both, symmetric=True, **options)
    assert distances.assd == pytest.approx(float(theirs), rel=1e-5)
    theirs = compute_surface_dice(*both, class_thresholds=[2.2], **options)
    assert distances.dice(2.2) == pytest.approx(float(theirs), rel=1e-5)


def test_a_shift_along_a_thick_axis_counts_in_millimetres() -> None:
    reference = np.zeros((12, 12, 12), bool)
    reference[2:10, 2:10, 4] = True
    prediction = np.roll(reference, 2, axis=2)
    assert hd95(prediction, reference, (1, 1, 2.5)) == pytest.approx(5.0)
    assert assd(prediction, reference, (1, 1, 2.5)) == pytest.approx(5.0)
    assert surface_dice(prediction, reference, (1, 1, 2.5), tolerance=4.9) == 0
    assert surface_dice(prediction, reference, (1, 1, 2.5), tolerance=5.0) == 1


def test_tolerance_forgives_spacings_in_single_precision() -> None:
    reference = np.zeros((9, 3, 3), bool)
    reference[1, 1, 1] = True
    prediction = np.roll(reference, 3, axis=0)
    spacing = np.float32([0.8, 1, 1])
    assert surface_dice(prediction, reference, spacing, tolerance=2.4) == 1


def test_sheared_grids_are_measured_in_space_and_not_along_their_axes() -> None:
    reference = np.zeros((5, 5, 7), bool)
    reference[2, 2, 1] = True
    prediction = np.roll(reference, 4, axis=2)
    sheared = np.array([[1, 0, 0], [0, 1, 0.5], [0, 0, 1.0]])
    assert hd95(prediction, reference, sheared) == pytest.approx(4 * np.hypot(0.5, 1))


def test_surroundings_do_not_matter() -> None:
    prediction, reference = lobed_pair()
    padded = [np.pad(mask, ((3, 40), (0, 9), (20, 1))) for mask in (prediction, reference)]
    assert hd95(*padded, (1, 2, 3)) == hd95(prediction, reference, (1, 2, 3))


def test_two_dimensions() -> None:
    circles = ball((40, 40), (20, 20), 10), ball((40, 40), (20, 20), 14)
    assert surface_distances(*circles, (0.5, 0.5)).hausdorff() == pytest.approx(2.0, abs=0.3)


def test_empty_masks() -> None:
    full, empty = ball((9, 9, 9), (4, 4, 4), 2), np.zeros((9, 9, 9), bool)
    for pair in ((full, empty), (empty, full)):
        distances = surface_distances(*pair, (1, 1, 1))
        assert distances.hd95 == distances.assd == np.inf
        assert distances.dice(100.0) == 0
    neither = surface_distances(empty, empty, (1, 1, 1))
    assert np.isnan([neither.hd95, neither.assd, neither.dice(1.0)]).all()


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, np.nan, 1), np.eye(2)])
def test_spacing_must_fit(spacing: object) -> None:
    with pytest.raises(ValueError, match="spacing must be 3 lengths"):
        hd95(np.ones((3, 3, 3)), np.ones((3, 3, 3)), spacing)


def test_a_label_map_is_no_mask() -> None:
    with pytest.raises(ValueError, match="one structure at a time"):
        hd95(np.full((3, 3, 3), 2), np.ones((3, 3, 3)), (1, 1, 1))
    with pytest.raises(ValueError, match="one shape"):
        hd95(np.ones((3, 3, 2)), np.ones((3, 3, 3)), (1, 1, 1))
