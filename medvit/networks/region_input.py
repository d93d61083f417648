"""Adapters that let networks with a region map take image and map in one tensor."""

from __future__ import annotations

from torch import Tensor, nn


class RegionInput(nn.Module):
    """Takes the region map as the last channel, as sliding windows give it.

    Parameters
    ----------
    network
        Network that maps an image (B, C, H, W) and a map (B, 1, H, W) to an image, such as `RAT`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """(B, C + 1, H, W) to (B, C, H, W); the map is rounded to whole numbers."""
        return self.network(image[:, :-1], image[:, -1:].round().long())
