"""Classical upsampling across slices: exact where it must be, unshifted, and non-local at its best."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.bench.upsampling import METHODS
from medvit.transforms.slice_stack import SliceStack


@pytest.mark.parametrize("method", METHODS)
def test_constant_and_slope_are_kept(method: str) -> None:
    stack = SliceStack.centred(16, 3.0, 3.0, 1.0)
    flat = METHODS[method](np.full((6, 6, 16), 0.7), {2: stack})
    np.testing.assert_allclose(flat, 0.7, atol=1e-5)
    wave = 0.5 + 0.4 * np.sin(2 * np.pi * (np.arange(48) + 0.5) / 48)
    slices = np.broadcast_to(stack.acquire() @ wave, (6, 6, 16))
    # A shift by half a voxel would be an error of 0.026 at the steepest point.
    np.testing.assert_allclose(METHODS[method](slices, {2: stack})[0, 0, 6:-6], wave[6:-6], atol=0.012)


def test_zero_filling_is_exact_within_the_band() -> None:
    for count in (9, 10):
        stack = SliceStack(count, 4.0, 4.0, 4 * count, 1.0, 1.5)
        turn = 2 * np.pi * (np.arange(4 * count) - 1.5) / (4 * count)
        wave = 1 + np.cos(3 * turn + 0.3)
        slices = 1 + np.cos(3 * 2 * np.pi * np.arange(count) / count + 0.3)
        np.testing.assert_allclose(
            METHODS["zero-filling"](slices[None, None], {2: stack})[0, 0], wave, atol=1e-9
        )


def test_non_local_sharpens_what_repeats() -> None:
    x, y, z = np.meshgrid(*[np.arange(32) - 15.5] * 3, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    truth = 0.5 + 0.5 * np.tanh(12 - radius)
    stack = SliceStack.centred(8, 4.0, 4.0, 1.0)
    slices = truth @ stack.acquire().T
    off = {m: np.sqrt(np.mean((METHODS[m](slices, {2: stack}) - truth) ** 2)) for m in METHODS}
    assert off["non-local"] < off["back-projection"] < off["cubic B-spline"] < off["linear"]
