"""Adapters for networks that take further channels beside the image and restore only the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Pixels darker than this are air, and say nothing of the noise of a tissue.
_AIR = 0.1
# Noise, as a share of the brightest tissue, at which a smooth image counts as much as a sharp one.
HALF_NOISE = 0.031
# Square of the mean square root of the size of normal noise, over its standard deviation.
_NORMAL = 0.676


class BlendedRestorer(nn.Module):
    """Adds the output of a network to a sharp image, and blends in a smooth one according to the noise.

    The first three channels of the input are the sharp image, the smooth one and the measured one; further
    ones guide the network. The share by which each pixel moves from the sharp to the smooth image is n⁸ / (n⁸
    + h⁸), of the noise n of the measured image and a noise h that is learned, plus what the network adds to
    the second channel. What it adds to the first channel is added to the result.

    Parameters
    ----------
    network
        Network that adds to its input, with as many output channels as input channels, such as `HAT` with
        ``upscale=1`` and ``residual=True``.
    half_noise
        Noise at which the share is a half, to begin with.
    """

    def __init__(self, network: nn.Module, half_noise: float = HALF_NOISE) -> None:
        super().__init__()
        self.network = network
        self.half_noise = nn.Parameter(torch.tensor(half_noise))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W), of three channels or more, to (B, 1, H, W)."""
        sharp, smooth = image[:, :1], image[:, 1:2]
        found = self.network(image)
        share = smooth_share(image[:, 2:3], smooth, self.half_noise) + found[:, 1:2] - smooth
        return found[:, :1] + share * (smooth - sharp)


def smooth_share(measured: Tensor, smooth: Tensor, half_noise: Tensor | float = HALF_NOISE) -> Tensor:
    """Share (B, 1, 1, 1) of a smooth image by the noise n along rows: n⁸ / (n⁸ + h⁸), h = `half_noise`."""
    relative = (noise_along_rows(measured, smooth) / half_noise) ** 8
    return relative / (1 + relative)


def noise_along_rows(measured: Tensor, smooth: Tensor) -> Tensor:
    """Standard deviation of the noise of tissue, from second differences along the first spatial axis.

    Parameters
    ----------
    measured
        Image (B, 1, H, W), in which air is darker than 0.1.
    smooth
        The same with less noise, which tells tissue from air.

    Returns
    -------
    Tensor
        (B, 1, 1, 1); 0 where there is no tissue.
    """
    second = (measured[:, :, 2:] - 2 * measured[:, :, 1:-1] + measured[:, :, :-2]).abs()
    tissue = (smooth[:, :, 1:-1] > _AIR).to(measured.dtype)
    # The mean of square roots, squared, is moved less by edges than the mean.
    total = (second.sqrt() * tissue).sum((2, 3), keepdim=True)
    mean = total / tissue.sum((2, 3), keepdim=True).clamp(min=1)
    return mean.square() / (_NORMAL * math.sqrt(6))
