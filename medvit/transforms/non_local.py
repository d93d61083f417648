"""Non-local means of volumes, and non-local upsampling built on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

# Strengths of the rounds of non-local upsampling, as a share of the image's range, after Manjon et al.
_STRENGTHS = (0.08, 0.04, 0.02, 0.01)
# Largest distance of compared voxels along each axis.
_REACH = 2
# Edge of the blocks that are processed at once, so that they stay in the cache.
_BLOCK = 32
_HALO = _REACH + 1


def non_local_mean(image: Tensor, strength: float) -> Tensor:
    """The mean of the surrounding 5 x 5 x 5 voxels, weighted by the similarity of their 3 x 3 x 3 patches.

    Parameters
    ----------
    image
        (X, Y, Z).
    strength
        Root mean square difference of two patches, in units of the image, at which a weight is 1 / e.

    References
    ----------
    Buades et al.: A non-local algorithm for image denoising, CVPR 2005.
    """
    padded = _mirrored(image)
    result = torch.empty_like(image)
    starts = [range(0, n, _BLOCK) for n in image.shape[:2]]
    for i, j in itertools.product(*starts):
        block = padded[i : i + _BLOCK + 2 * _HALO, j : j + _BLOCK + 2 * _HALO]
        result[i : i + _BLOCK, j : j + _BLOCK] = _mean_of_block(block, strength)
    return result


def non_local_upsample(
    samples: Tensor, estimate: Callable[[Tensor], Tensor], acquire: Callable[[Tensor], Tensor]
) -> Tensor:
    """Non-local upsampling: similar patches contribute detail, and the measured samples are kept.

    Parameters
    ----------
    samples
        Measured intensities (X, Y, Z), over those of the brightest tissue.
    estimate
        Linear interpolation of samples to the finer grid.
    acquire
        The samples that a scanner would measure of an image on the finer grid.

    Returns
    -------
    Tensor
        The image on the finer grid, (X', Y', Z').

    References
    ----------
    Manjon et al.: Non-local MRI upsampling, Medical Image Analysis 14, 2010.
    """
    image = estimate(samples)
    for strength in _STRENGTHS:
        image = non_local_mean(image, strength)
        image = image + estimate(samples - acquire(image))
    return image


def _mirrored(image: Tensor) -> Tensor:
    """The image with `_HALO` voxels more on each side, mirrored at the faces of the outer voxels."""
    for axis, size in enumerate(image.shape):
        positions = torch.arange(-_HALO, size + _HALO, device=image.device) % (2 * size)
        image = image.index_select(axis, torch.minimum(positions, 2 * size - 1 - positions))
    return image


def _mean_of_block(padded: Tensor, strength: float) -> Tensor:
    """The non-local mean of a block that is given with `_HALO` voxels more on each side."""
    sizes = [n - 2 * _HALO for n in padded.shape]
    inner = _cut(padded, [_HALO] * 3, sizes)
    if padded.min() == padded.max():
        return inner
    total, weight = inner.clone(), torch.ones_like(inner)
    steps = range(-_REACH, _REACH + 1)
    # The weights of a pair are symmetric, so half of the offsets suffice.
    for offset in itertools.product(steps, steps, steps):
        if offset <= (0, 0, 0):
            continue
        # Voxels of the block, and those from which this offset leads into it.
        first = [_HALO - max(o, 0) for o in offset]
        extent = [n + abs(o) for n, o in zip(sizes, offset, strict=True)]
        share = _likeness(padded, first, extent, offset, strength)
        ahead = [f + o for f, o in zip([_HALO] * 3, offset, strict=True)]
        behind = [f - o for f, o in zip([_HALO] * 3, offset, strict=True)]
        own = _cut(share, [_HALO - f for f in first], sizes)
        total.addcmul_(own, _cut(padded, ahead, sizes))
        weight += own
        others = _cut(share, [b - f for b, f in zip(behind, first, strict=True)], sizes)
        total.addcmul_(others, _cut(padded, behind, sizes))
        weight += others
    return total / weight


def _likeness(
    padded: Tensor, first: list[int], extent: list[int], offset: tuple[int, ...], strength: float
) -> Tensor:
    """Weights of the voxels at an offset from those of a box of `padded`."""
    wide = [n + 2 for n in extent]
    start = [f - 1 for f in first]
    moved = [s + o for s, o in zip(start, offset, strict=True)]
    distance = (_cut(padded, start, wide) - _cut(padded, moved, wide)).square_()
    for axis, size in enumerate(extent):
        sums = distance.narrow(axis, 0, size) + distance.narrow(axis, 1, size)
        distance = sums.add_(distance.narrow(axis, 2, size))
    return distance.mul_(-1 / (27 * strength**2)).exp_()


def _cut(image: Tensor, first: list[int], sizes: list[int]) -> Tensor:
    for axis, (start, size) in enumerate(zip(first, sizes, strict=True)):
        image = image.narrow(axis, start, size)
    return image
