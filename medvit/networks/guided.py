"""Adapters for networks that take further channels beside the image and restore only the image."""

from __future__ import annotations

from torch import Tensor, nn


class GuidedRestorer(nn.Module):
    """Keeps the first channel of a network's output; the other channels only guide it.

    Parameters
    ----------
    network
        Network with as many output channels as input channels, such as `HAT` with ``upscale=1``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W), the image first, to (B, 1, H, W)."""
        return self.network(image)[:, :1]
