"""Classical ways from thick slices or coarse pixels to a finer grid, which a network has to surpass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from medvit.transforms.slice_stack import SliceStack, network_input, upsampled_non_locally

# Samples to the finer grid, along the axes that become finer: slices along their normal, or pixels along both
# axes of a slice.
Stacks = Mapping[int, SliceStack]
Upsampler = Callable[[np.ndarray, Stacks], np.ndarray]


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
    """Non-local upsampling, see `medvit.transforms.non_local`."""
    image = upsampled_non_locally(torch.from_numpy(np.ascontiguousarray(samples, np.float32)), stacks)
    return image.numpy()


def denoised(samples: np.ndarray, stacks: Stacks) -> np.ndarray:
    """Non-local upsampling and a non-local mean of a fixed strength, as super-resolution networks see it."""
    return network_input(torch.from_numpy(np.ascontiguousarray(samples, np.float32)), stacks)[1].numpy()


METHODS: Mapping[str, Upsampler] = {
    "linear": linear,
    "cubic B-spline": cubic,
    "Lanczos-3": lanczos,
    "zero-filling": zero_filled,
    "back-projection": back_projected,
    "non-local": non_local,
    "non-local, denoised": denoised,
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
