"""Noise, sharpness, evenness and content of an image, against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medvit.reports import assess_image
from medvit.reports.image_quality import ImageQuality, foreground
from medvit.studies.study import Grid
from tests.reports.phantom import head, ras_affine

SHAPE = (40, 40, 40)
EVERYWHERE = np.ones(SHAPE, np.uint8)


def assessed(image: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> ImageQuality:
    return assess_image(image.astype(np.float32), EVERYWHERE, Grid(SHAPE, ras_affine(spacing, SHAPE)))


def test_the_sharpness_of_a_slope() -> None:
    slope = 3.0 * np.arange(40)[:, None, None] * np.ones(SHAPE)
    found = assessed(slope, (2.0, 1.0, 1.0))
    # 3 a voxel are 1.5 a mm, and the range from 2 to 98 % is 0 to 117.
    assert found.sharpness == pytest.approx(100 * 1.5 / 117, rel=1e-4)
    assert found.noise == pytest.approx(0, abs=1e-3) and found.coherence == pytest.approx(1)
    assert found.range == (0.0, 117.0) and found.finite == 1.0


def test_a_brighter_slice_is_a_jump() -> None:
    x, y, _ = np.indices(SHAPE)
    checked = 100.0 * ((x + y) % 2)  # every slice across any axis has the mean 50
    assert assessed(checked).unevenness == pytest.approx(0, abs=1e-6)
    checked[:, :, 20] += 10
    assert assessed(checked).unevenness == pytest.approx(0.1, rel=1e-3)


def test_images_without_contrast() -> None:
    flat = assessed(np.full(SHAPE, 7.0))
    assert (flat.noise, flat.snr, flat.sharpness, flat.unevenness) == (0.0, math.inf, 0.0, 0.0)
    assert (flat.range, flat.coherence) == ((7.0, 7.0), 0.0)
    assert assessed(np.full(SHAPE, np.nan)) == ImageQuality(0.0, 0.0, 0.0, 0.0, 0.0, (0.0, 0.0))


def test_voxels_without_a_value_are_counted_and_filled_with_the_darkest() -> None:
    image = 10.0 + np.arange(40)[:, None, None] * np.ones(SHAPE)
    image[:10] = np.nan
    found = assessed(image)
    assert found.finite == 0.75
    assert found.range == (20.0, 49.0)


def test_where_little_is_labelled_the_whole_image_counts() -> None:
    image = np.random.default_rng(0).normal(0, 4, SHAPE).astype(np.float32)
    few = np.zeros(SHAPE, np.uint8)
    few[:7, :7, :7] = 1
    grid = Grid(SHAPE, ras_affine(1.0, SHAPE))
    assert assess_image(image, few, grid) == assess_image(image, EVERYWHERE, grid)


def test_the_noise_is_that_of_the_finest_pixels() -> None:
    # Ripples along the thick axis are no noise of the slices.
    ripples = 50.0 * (np.arange(40) % 2)[None, None] * np.ones(SHAPE)
    assert assessed(ripples, (1.0, 1.0, 4.0)).noise == pytest.approx(0, abs=1e-4)
    noisy = ripples + np.random.default_rng(1).normal(0, 2, SHAPE)
    assert assessed(noisy, (1.0, 1.0, 4.0)).noise == pytest.approx(2, rel=0.03)


def test_the_foreground_is_brighter_than_air() -> None:
    image = np.zeros((10, 10, 10), np.float32)
    image[2:8] = 100
    image[5, 5, 5] = 1e5  # metal
    image[0, 0, 0] = np.nan
    expected = np.zeros(image.shape, bool)
    expected[2:8] = True
    assert np.array_equal(foreground(image), expected)
    assert foreground(np.full((3, 3, 3), 4.0)).all()
    assert foreground(np.full((3, 3, 3), np.nan)).all()


def test_noise_is_measured_not_guessed() -> None:
    _, labels, grid = head()
    for sigma in (5.0, 12.0):
        clean = np.where(labels > 0, 100.0, 0.0)
        noisy = clean + np.random.default_rng(2).normal(0, sigma, labels.shape)
        quality = assess_image(noisy.astype(np.float32), labels, grid)
        assert quality.noise == pytest.approx(sigma, rel=0.05)
        assert quality.snr == pytest.approx(100 / sigma, rel=0.06)


def test_neighbours_are_related_in_objects_and_unrelated_in_noise() -> None:
    grid = Grid((40, 40, 40), ras_affine(1.0, (40, 40, 40)))
    everywhere = np.ones(grid.shape, np.uint8)
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 1, grid.shape).astype(np.float32)
    assert abs(assess_image(noise, everywhere, grid).coherence) < 0.02
    # A half space whose step is twice the noise: variance 1 of the step, 1 of the noise, so about a half.
    noisy = noise + np.where(np.arange(40) < 20, -1, 1)[:, None, None]
    assert assess_image(noisy, everywhere, grid).coherence == pytest.approx(0.5, abs=0.04)
    # One voxel that outshines all others hides neither the object nor the noise.
    for image, expected in ((noise, 0.0), (noisy, 0.5)):
        image[3, 4, 5] = 1e6
        assert assess_image(image, everywhere, grid).coherence == pytest.approx(expected, abs=0.04)


def test_blur_lowers_sharpness() -> None:
    image, labels, grid = head()
    sharp = assess_image(image, labels, grid).sharpness
    assert assess_image(gaussian_filter(image, 1.5), labels, grid).sharpness < 0.7 * sharp
