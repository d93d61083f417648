"""Adapters that let networks with a region map take image and map in one tensor."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RegionInput(nn.Module):
    """Takes the region map as the last channel, as sliding windows give it.

    Parameters
    ----------
    network
        Network that maps an image (B, C, H, W) and a map (B, 1, H, W) to an image, such as `RAT`.
    coarse_from_input
        Standard deviation in pixels of a Gaussian. What it passes of the input is put back where the network
        took it out (Tukey's twicing), so that the means of small regions stay those of the source; coarse
        noise comes back with them. In training nothing is put back, because a network would learn to undo it.
        0 trusts the network alone.
    """

    def __init__(self, network: nn.Module, coarse_from_input: float = 0.0) -> None:
        super().__init__()
        if coarse_from_input < 0:
            raise ValueError(f"coarse_from_input must be 0 or positive, not {coarse_from_input}")
        self.network = network
        reach = math.ceil(4 * coarse_from_input)
        taps = [math.exp(-0.5 * (n / (coarse_from_input or 1)) ** 2) for n in range(-reach, reach + 1)]
        self.taps = [tap / sum(taps) for tap in taps]

    def forward(self, image: Tensor) -> Tensor:
        """(B, C + 1, H, W) to (B, C, H, W); the map is rounded to whole numbers."""
        source = image[:, :-1]
        restored = self.network(source, image[:, -1:].round().long())
        reach = len(self.taps) // 2
        if self.training or reach == 0:
            return restored
        height, width = source.shape[2:]
        removed = (source - restored).reshape(-1, 1, height, width)
        removed = F.pad(removed, [reach] * 4, mode="replicate")
        taps = torch.tensor(self.taps, dtype=removed.dtype, device=removed.device)
        coarse = F.conv2d(F.conv2d(removed, taps[None, None, None]), taps[None, None, :, None])
        return restored + coarse.reshape(restored.shape)
