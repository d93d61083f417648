"""What a restoration took out: noise, structure or brightness; and the noise that is left."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

from medvit.metrics import assess_difference, grid_pattern, noise_power


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(64, 64, 4) blocks of tissue with soft edges, and noise of a tenth of their spread."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(100, 300, (4, 4, 4))
    image = gaussian_filter(np.kron(coarse, np.ones((16, 16, 1))), (0.6, 0.6, 0))
    return image, rng.normal(0, 6, image.shape)


def test_noise_alone_leaves_no_trace() -> None:
    clean, noise = scene()
    taken = assess_difference(clean + noise, clean)
    assert abs(taken.detail) < 0.05 and abs(taken.edges) < 0.05 and abs(taken.offset) < 0.05
    assert taken.size == pytest.approx(6 / clean.std(), rel=0.1)
    assert taken.beyond == 0
    assert taken.of_noise == pytest.approx(1, abs=0.15)
    assert assess_difference(clean + noise, clean + 0.7 * noise).of_noise == pytest.approx(0.3, abs=0.05)
    # Texture counts as noise: what is taken out beside it is little.
    fine = clean + np.random.default_rng(1).normal(0, 20, clean.shape)
    assert assess_difference(fine + noise, fine).of_noise == pytest.approx(0.28, abs=0.05)


def test_blur_and_sharpening_follow_the_structure_in_opposite_ways() -> None:
    clean, noise = scene()
    blurred = gaussian_filter(clean + noise, (1.2, 1.2, 0))
    taken = assess_difference(clean + noise, blurred)
    assert taken.detail > 0.6
    assert assess_difference(blurred, 2 * clean - gaussian_filter(clean, (1.2, 1.2, 0))).detail < -0.6


def test_noise_that_is_left_at_edges_shows() -> None:
    clean, noise = scene()
    steep = gaussian_gradient_magnitude(clean, (1, 1, 0))
    left = np.where(steep > np.percentile(steep, 80), noise, 0)
    taken = assess_difference(clean + noise, clean + left)
    assert taken.edges < -0.4 and abs(taken.detail) < 0.1


def test_shift_and_range() -> None:
    clean, noise = scene()
    noisy = clean + noise
    assert assess_difference(noisy, clean - 12).offset == pytest.approx(2.0, rel=0.05)
    beyond = clean.copy()
    beyond[:32, :, :] = noisy.min() - 40
    assert assess_difference(noisy, beyond).beyond == pytest.approx(0.5)
    masked = np.zeros(clean.shape, bool)
    masked[32:] = True
    assert abs(assess_difference(noisy, beyond, masked).offset) < 0.05
    same = assess_difference(noisy, noisy)
    assert (same.detail, same.edges, same.offset, same.size, same.beyond, same.of_noise) == (0,) * 6
    with pytest.raises(ValueError, match="one shape"):
        assess_difference(noisy, noisy[1:])


def test_many_slices_are_sampled_evenly() -> None:
    clean, noise = scene()
    many, noisy = (np.tile(image, (1, 1, 30)) for image in (clean, clean + noise))
    assert assess_difference(noisy, many).size == pytest.approx(6 / clean.std(), rel=0.1)


def test_power_of_white_and_of_smooth_noise() -> None:
    white = np.random.default_rng(1).normal(5, 3, (200, 32, 32))
    frequency, power = noise_power(white, bins=8)
    assert frequency[0] == 1 / 32 and frequency[-1] == 15 / 32
    assert power == pytest.approx(np.full(8, 9.0), rel=0.06)
    smooth = noise_power(gaussian_filter(white, (0, 1, 1), mode="wrap"), bins=8)[1]
    assert smooth[0] > 5 and smooth[-1] < 0.1
    with pytest.raises(ValueError, match="patches"):
        noise_power(white[0])


def test_only_a_pattern_that_repeats_is_a_pattern() -> None:
    noise = np.random.default_rng(2).normal(0, 3, (100, 32, 32))
    assert grid_pattern(noise) < 0.04
    checkers = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((4, 4)))
    assert grid_pattern(noise + 2 * checkers) == pytest.approx(1.0, abs=0.05)
    assert grid_pattern(noise + 2 * checkers, period=7) < 0.35
