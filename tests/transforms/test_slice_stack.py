"""Slices and the finer grid along an axis: profiles, half a voxel, distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.transforms.slice_stack import SliceStack, along


def test_an_even_profile_averages_blocks() -> None:
    stack = SliceStack.centred(5, 4.0, 4.0, 1.0)
    values = np.random.default_rng(0).random(20)
    assert stack.size == 20 and stack.first == 1.5
    np.testing.assert_allclose(stack.acquire() @ values, values.reshape(5, 4).mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("profile", ["box", "gauss"])
@pytest.mark.parametrize(("step", "thickness"), [(5.0, 4.0), (3.3, 4.2), (2.0, 2.0)])
def test_a_ramp_comes_back_unshifted(profile: str, step: float, thickness: float) -> None:
    stack = SliceStack.centred(20, step, thickness, 1.0, profile)  # type: ignore[arg-type]
    ramp = np.arange(stack.size, dtype=float)
    slices = stack.acquire() @ ramp
    inside = slice(round(4 * step), -round(4 * step))
    for weights in (stack.interpolate(), stack.refine()):
        np.testing.assert_allclose((weights @ slices)[inside], ramp[inside], atol=0.05)
    np.testing.assert_allclose(stack.acquire().sum(axis=1), 1)


def test_a_gaussian_profile_has_the_thickness_as_its_width_at_half_maximum() -> None:
    weights = SliceStack(1, 6.0, 6.0, 101, 1.0, 50.0, "gauss").acquire()[0]
    assert weights[50 + 3] / weights[50] == pytest.approx(0.5, abs=0.01)


def test_refined_slices_average_to_the_measured_ones() -> None:
    stack = SliceStack.centred(12, 5.0, 4.0, 1.0)
    slices = np.random.default_rng(1).random(12)
    off = [
        np.abs(stack.acquire() @ (w @ slices) - slices).max() for w in (stack.interpolate(), stack.refine())
    ]
    assert off[1] < 0.02 < 0.05 < off[0]


def test_distances_count_from_the_nearest_slice() -> None:
    stack = SliceStack.centred(3, 4.0, 4.0, 1.0)
    expected = np.array([-1.5, -0.5, 0.5, 1.5] * 3) / 4
    np.testing.assert_allclose(stack.distances(), expected)


def test_along_an_axis() -> None:
    image = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(along(np.ones((1, 3)), image, 1), image.sum(dim=1, keepdim=True))
