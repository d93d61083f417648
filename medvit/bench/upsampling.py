"""Classical ways from thick slices or coarse pixels to a finer grid, which a network has to surpass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.ndimage import uniform_filter

from medvit.transforms.through_plane import SliceStack

# Samples to the finer grid, along the axes that become finer: slices along their normal, or pixels along both
# axes of a slice.
Stacks = Mapping[int, SliceStack]
Upsampler = Callable[[np.ndarray, Stacks], np.ndarray]

# Rounds of non-local upsampling by their strength, as a share of the image's range, after Manjon et al.
_STRENGTHS = (0.08, 0.04, 0.02, 0.01)
_REACH, _PATCH = 2, 3


def applied(weights: Callable[[SliceStack], np.ndarray], image: np.ndarray, stacks: Stacks) -> np.ndarray:
    """`image` with the weights (outputs, inputs) that a function has for each axis."""
    for axis, stack in stacks.items():
        image = np.moveaxis(np.moveaxis(image, axis, -1) @ weights(stack).T, -1, axis)
    return image


def linear(samples: np.ndarray, stacks: Stacks) -> np.ndarray:
    """Linear interpolation between the samples' centres."""
    return applied(lambda stack: _kernel(stack, lambda d: (1 - np.abs(d)).clip(0), 1), samples, stacks)


def cubic(samples: np.ndarray, stacks: Stacks) -> np.ndarray:
    """A cubic B-spline through the samples."""
    return applied(SliceStack.interpolate, samples, stacks)


def lanczos(samples: np.ndarray, stacks: Stacks) -> np.ndarray:
    """Lanczos' kernel of three lobes."""
    return applied(
        lambda stack: _kernel(stack, lambda d: np.sinc(d) * np.sinc(d / 3) * (np.abs(d) < 3), 3),
        samples,
        stacks,
    )


def zero_filled(samples: np.ndarray, stacks: Stacks) -> np.ndarray:
    """Zero-filled k-space: the trigonometric polynomial through the samples."""
    return applied(SliceStack.zero_fill, samples, stacks)


def back_projected(samples: np.ndarray, stacks: Stacks) -> np.ndarray:
    """An interpolation whose samples are made equal to the measured ones (`SliceStack.refine`)."""
    return applied(SliceStack.refine, samples, stacks)


def non_local(samples: np.ndarray, stacks: Stacks) -> np.ndarray:
    """Non-local upsampling: like patches lend each other detail, and the measured samples are kept.

    References
    ----------
    Manjon et al.: Non-local MRI upsampling, Medical Image Analysis 14, 2010.
    """
    image = back_projected(samples, stacks)
    for strength in _STRENGTHS:
        image = _non_local_mean(image.astype(np.float32), strength)
        missing = samples - applied(SliceStack.acquire, image, stacks)
        image = image + back_projected(missing, stacks)
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
