"""Classical ways from thick slices to a finer grid, which a network has to surpass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.ndimage import uniform_filter

from medvit.transforms.through_plane import SliceStack

# Slices (..., count) of a stack to voxels (..., size); the last axis is the slices' normal.
Upsampler = Callable[[np.ndarray, SliceStack], np.ndarray]

# Rounds of non-local upsampling by their strength, as a share of the image's range, after Manjon et al.
_STRENGTHS = (0.08, 0.04, 0.02, 0.01)
_REACH, _PATCH = 2, 3


def linear(slices: np.ndarray, stack: SliceStack) -> np.ndarray:
    """Linear interpolation between the slices' centres."""
    return slices @ _kernel(stack, lambda d: (1 - np.abs(d)).clip(0), 1).T


def cubic(slices: np.ndarray, stack: SliceStack) -> np.ndarray:
    """A cubic B-spline through the slices."""
    return slices @ stack.interpolate().T


def lanczos(slices: np.ndarray, stack: SliceStack) -> np.ndarray:
    """Lanczos' kernel of three lobes."""
    return slices @ _kernel(stack, lambda d: np.sinc(d) * np.sinc(d / 3) * (np.abs(d) < 3), 3).T


def zero_filled(slices: np.ndarray, stack: SliceStack) -> np.ndarray:
    """Zero-filled k-space: the trigonometric polynomial through the slices."""
    count = stack.count
    distance = _positions(stack)[:, None] - np.arange(count)
    # Dirichlet's kernel; for an even number the highest frequency is split between both of its signs.
    turn = np.pi * distance / count
    top = np.sin(np.pi * distance)
    bottom = count * (np.sin(turn) if count % 2 else np.tan(turn))
    at_slice = np.abs(np.sin(turn)) < 1e-9
    weights = np.where(at_slice, 1.0, top / np.where(np.abs(bottom) < 1e-12, np.inf, bottom))
    return slices @ weights.T


def back_projected(slices: np.ndarray, stack: SliceStack) -> np.ndarray:
    """A cubic B-spline whose slices are made equal to the measured ones (`SliceStack.refine`)."""
    return slices @ stack.refine().T


def non_local(slices: np.ndarray, stack: SliceStack) -> np.ndarray:
    """Non-local upsampling: like patches lend each other detail, and the measured slices are kept.

    References
    ----------
    Manjon et al.: Non-local MRI upsampling, Medical Image Analysis 14, 2010.
    """
    acquire, refine = stack.acquire(), stack.refine()
    image = slices @ refine.T
    for strength in _STRENGTHS:
        image = _non_local_mean(image.astype(np.float32), strength)
        image = image + (slices - image @ acquire.T) @ refine.T
    return image


METHODS: Mapping[str, Upsampler] = {
    "linear": linear,
    "cubic B-spline": cubic,
    "Lanczos-3": lanczos,
    "zero-filling": zero_filled,
    "back-projection": back_projected,
    "non-local": non_local,
}


def _positions(stack: SliceStack) -> np.ndarray:
    """Each voxel's position in slices."""
    return (np.arange(stack.size) - stack.first) * stack.spacing / stack.step


def _kernel(stack: SliceStack, kernel: Callable[[np.ndarray], np.ndarray], reach: int) -> np.ndarray:
    """(size, count) weights of a kernel of the distance in slices, which are mirrored at the border."""
    mirrored = np.arange(-reach, stack.count + reach)
    values = kernel(_positions(stack)[:, None] - mirrored)
    values /= values.sum(axis=1, keepdims=True)
    own = np.abs(mirrored + (mirrored < 0))
    own = np.where(own >= stack.count, 2 * stack.count - 1 - own, own)
    weights = np.zeros((stack.size, stack.count))
    for column, slice_number in enumerate(own):
        weights[:, slice_number] += values[:, column]
    return weights


def _non_local_mean(image: np.ndarray, strength: float) -> np.ndarray:
    """The mean of the voxels around, each weighted by how like its patch is."""
    total, weight = image.copy(), np.ones_like(image)
    padded = np.pad(image, _REACH, mode="symmetric")
    steps = range(-_REACH, _REACH + 1)
    for shift in ((i, j, k) for i in steps for j in steps for k in steps if (i, j, k) != (0, 0, 0)):
        moved = padded[
            tuple(slice(_REACH + s, _REACH + s + n) for s, n in zip(shift, image.shape, strict=True))
        ]
        distance = uniform_filter((moved - image) ** 2, _PATCH, mode="nearest")
        share = np.exp(-distance / strength**2)
        total += share * moved
        weight += share
    return total / weight
