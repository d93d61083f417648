"""Parallel samples along an axis, thick slices or coarse pixels, and matrices to and from a finer grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from scipy.special import erf
from torch import Tensor

from medvit.transforms.non_local import non_local_mean, non_local_upsample

Profile = Literal["box", "gauss", "kspace"]

# Millimetres from the centre of a slice that are 1 in the channel of distances from slices.
_FAR = 4.0
_FWHM = 2 * np.sqrt(2 * np.log(2))
# Strength of the non-local mean by which a network recognises noise.
_SMOOTHING = 0.1
# Each round brings the slices of the estimate closer to the measured ones; after ten, little changes.
_ROUNDS = 10


@dataclass(frozen=True)
class SliceStack:
    """Positions and thickness of parallel slices, and the voxels of a finer grid along their normal.

    Parameters
    ----------
    count
        Number of slices.
    step
        Distance between the centres of neighbouring slices, in mm.
    thickness
        Thickness of a slice in mm: below `step` there are gaps, above it slices overlap.
    size, spacing
        Number of voxels of the finer grid, and their distance in mm.
    first
        Position of the first slice's centre in voxels of the finer grid.
    profile
        Sensitivity along the axis: even over the thickness, or a Gaussian whose full width at half maximum
        is the thickness. ``"kspace"`` stands for pixels of a slice, of which a scanner measures the lower
        spatial frequencies; both grids then have the same extent.
    """

    count: int
    step: float
    thickness: float
    size: int
    spacing: float
    first: float
    profile: Profile = "box"

    @classmethod
    def centred(
        cls, count: int, step: float, thickness: float, spacing: float, profile: Profile = "box"
    ) -> SliceStack:
        """The finer grid that covers the slices, with the same centre as the stack.

        Blocks of voxels are averaged into slices, so the first voxel lies half a slice less half a voxel
        before the centre of the first slice, not at it.
        """
        size = max(1, round(count * step / spacing))
        first = (size - 1) / 2 - (count - 1) / 2 * step / spacing
        return cls(count, step, thickness, size, spacing, first, profile)

    @property
    def centres(self) -> np.ndarray:
        """(count,) positions of the slices in voxels of the finer grid."""
        return self.first + np.arange(self.count) * self.step / self.spacing

    def acquire(self) -> np.ndarray:
        """(count, size) weights with which voxels of the finer grid make up each slice; rows add up to 1."""
        if self.profile == "kspace":
            distance = (self.centres[:, None] - np.arange(self.size)) * self.spacing / self.step
            return periodic_sinc(distance, self.count) * self.spacing / self.step
        edges = np.arange(self.size + 1) - 0.5 - self.centres[:, None]
        width = self.thickness / self.spacing
        if self.profile == "box":
            below = edges.clip(-width / 2, width / 2)
        else:
            below = erf(edges * _FWHM / width / np.sqrt(2))
        weights = np.diff(below, axis=1)
        total = weights.sum(axis=1, keepdims=True)
        return weights / np.where(total > 0, total, 1)

    def interpolate(self) -> np.ndarray:
        """(size, count) weights of a cubic B-spline through the slices, mirrored beyond the outer ones."""
        position = (np.arange(self.size) - self.first) * self.spacing / self.step
        unit = np.eye(self.count)
        columns = [map_coordinates(row, position[None], order=3, mode="reflect") for row in unit]
        return np.stack(columns, axis=1)

    def zero_fill(self) -> np.ndarray:
        """(size, count) weights of the trigonometric polynomial through the slices: zero-filled k-space."""
        position = (np.arange(self.size) - self.first) * self.spacing / self.step
        return periodic_sinc(position[:, None] - np.arange(self.count), self.count)

    def refine(self, rounds: int = _ROUNDS) -> np.ndarray:
        """(size, count) weights of an interpolation whose slices are then made equal to the measured ones.

        The interpolation is a cubic B-spline, of pixels zero-filling. Each round interpolates and adds the
        difference between measured and estimated slices (iterative back-projection).
        """
        acquire = self.acquire()
        interpolate = self.zero_fill() if self.profile == "kspace" else self.interpolate()
        weights, missing = interpolate, np.eye(self.count) - acquire @ interpolate
        for _ in range(rounds):
            weights = weights + interpolate @ missing
            missing = np.eye(self.count) - acquire @ weights
        return weights

    def distances(self) -> np.ndarray:
        """(size,) signed distance of each voxel from the nearest slice centre, in units of 4 mm."""
        offset = np.arange(self.size)[:, None] - self.centres
        nearest = np.take_along_axis(offset, np.abs(offset).argmin(axis=1)[:, None], axis=1)[:, 0]
        return nearest * self.spacing / _FAR


def periodic_sinc(distance: np.ndarray, count: int) -> np.ndarray:
    """Dirichlet's kernel of `count` samples, 1 at a distance of 0 samples and 0 at all other samples.

    Of an even number, the highest frequency is split between both of its signs.
    """
    turn = np.pi * distance / count
    top = np.sin(np.pi * distance)
    bottom = count * (np.sin(turn) if count % 2 else np.tan(turn))
    at_sample = np.abs(np.sin(turn)) < 1e-9
    return np.where(at_sample, 1.0, top / np.where(np.abs(bottom) < 1e-12, np.inf, bottom))


def along(weights: np.ndarray, image: Tensor, axis: int) -> Tensor:
    """`image` with `weights` (outputs, inputs) applied along an axis."""
    matrix = torch.from_numpy(weights).to(image.device, image.dtype)
    return (image.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


def refined_along(
    weights: Callable[[SliceStack], np.ndarray], image: Tensor, stacks: Mapping[int, SliceStack]
) -> Tensor:
    """`image` (..., X, Y, Z) with the weights that a function has for the samples along each axis."""
    for axis, stack in stacks.items():
        image = along(weights(stack), image, axis - 3)
    return image


def upsampled_non_locally(samples: Tensor, stacks: Mapping[int, SliceStack]) -> Tensor:
    """Samples (X, Y, Z) on the finer grid by non-local upsampling, see `medvit.transforms.non_local`."""
    return non_local_upsample(
        samples,
        lambda some: refined_along(SliceStack.refine, some, stacks),
        lambda image: refined_along(SliceStack.acquire, image, stacks),
    )


def network_input(samples: Tensor, stacks: Mapping[int, SliceStack]) -> Tensor:
    """What a super-resolution network sees of samples (X, Y, Z), with the distances along a single axis.

    Returns
    -------
    Tensor
        (3 or 4, X', Y', Z'): the non-local upsampling, to which the network adds; the same smoothed, which
        shows what is noise; the back-projection, which shows what was measured; and, if one axis alone
        becomes finer, the distances of `SliceStack.distances` along it.
    """
    image = upsampled_non_locally(samples, stacks)
    refined = refined_along(SliceStack.refine, samples, stacks)
    channels = [image, non_local_mean(image, _SMOOTHING), refined]
    if len(stacks) == 1:
        ((axis, stack),) = stacks.items()
        shape = [-1 if a == axis else 1 for a in range(3)]
        channels.append(torch.from_numpy(stack.distances()).to(image).reshape(shape).expand(image.shape))
    return torch.stack(channels)
