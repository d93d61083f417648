"""Voxel-fine input and output for networks that work at half resolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medvit.networks.layers import cpu_blocks


class DetailUnit(nn.Sequential):
    """3x3x3 convolution, GroupNorm, GELU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(8, out_channels),
            nn.GELU(),
        )


class DetailStem(nn.Module):
    """The image folded to half resolution (2x2x2 voxels to channels) and two convolutions."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.units = nn.Sequential(DetailUnit(8 * in_channels, width), DetailUnit(width, width))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, D, H, W) with even D, H, W to (B, width, D/2, H/2, W/2)."""
        return self.units(fold(image))


class DetailReadout(nn.Module):
    """Joins a map of the surroundings with the stem's map, and unfolds logits to every voxel."""

    def __init__(self, width: int, stem_width: int, out_channels: int) -> None:
        super().__init__()
        self.refine = nn.Sequential(DetailUnit(width + stem_width, width), DetailUnit(width, width))
        self.readout = nn.Conv3d(width, 8 * out_channels, 1)

    def forward(self, context: Tensor, stem: Tensor) -> Tensor:
        """Two maps (B, C, D/2, H/2, W/2) to logits (B, out, D, H, W)."""
        return self.read_out(context, stem)

    def read_out(self, context: Tensor, stem: Tensor) -> Tensor:
        """The result of `forward`, callable from subclasses too, since TorchScript has no ``super()``."""
        joined = self.refine(torch.cat([context, stem], dim=1))
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript leaves out such a block, not a condition)
            if cpu_blocks.apply(joined, self.readout.weight):
                return unfolded_product(self.readout, joined)
        return unfold(self.readout(joined))


def fold(x: Tensor) -> Tensor:
    """(B, C, 2D, 2H, 2W) to (B, 8C, D, H, W)."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c, d // 2, 2, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, 8 * c, d // 2, h // 2, w // 2)


def unfold(x: Tensor) -> Tensor:
    """(B, 8C, D, H, W) to (B, C, 2D, 2H, 2W), the inverse of `fold`."""
    b, c, d, h, w = x.shape
    x = x.reshape(b, c // 8, 2, 2, 2, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // 8, 2 * d, 2 * h, 2 * w)


def unfolded_product(readout: Any, x: Tensor) -> Tensor:
    """`unfold` of a 1x1x1 convolution of (B, C, D, H, W), by planes, each of which stays in the cache."""
    weight, bias = readout.weight.flatten(1), readout.bias[:, None]
    b, c, d, h, w = x.shape
    unfolded = x.new_empty(b, len(weight) // 8, 2 * d, 2 * h, 2 * w)
    for volume, rows in zip(unfolded.view(b, -1, d, 2, h, 2, w, 2), x.reshape(b, c, d, h * w), strict=True):
        for plane in range(d):
            product = torch.addmm(bias, weight, rows[:, plane]).view(-1, 2, 2, 2, h, w)
            volume[:, plane] = product.permute(0, 1, 4, 2, 5, 3)
    return unfolded
