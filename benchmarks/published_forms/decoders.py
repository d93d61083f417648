"""Decoders that upsample first and project or join afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.networks.layers.residual_unet import Decoder
from medvit.networks.segformer3d import Fusion


def fuse_joined(self: Fusion, levels: Sequence[Tensor]) -> Tensor:
    """SegFormer3D: every level to the finest grid, all joined to four widths, one 1x1x1 convolution."""
    size = levels[0].shape[1:4]
    maps = []
    for level, project, norm in zip(levels, self.project, self.project_norm, strict=True):
        projected = norm(project(level)).permute(0, 4, 1, 2, 3)
        if maps:
            projected = F.interpolate(projected, size=size, mode="trilinear", align_corners=False)
        maps.append(projected)
    return F.relu(self.mix_norm(self.mix(torch.cat(maps[::-1], dim=1))))


def decode_upsampled(self: Decoder, skips: Sequence[Tensor], levels: int) -> list[Tensor]:
    """The U-Nets: the 1x1 convolution acts on the map that is already upsampled."""
    x, maps = skips[-1], []
    for i, (reduce, stage) in enumerate(zip(self.reduce, self.stages, strict=True)):
        skip = skips[-2 - i]
        x = reduce(F.interpolate(x, size=skip.shape[2:], mode="nearest"))
        x = stage(torch.cat([x, skip], dim=1) if self.joins[i] else x)
        maps.append(x)
    return [head(x) for head, x in zip(self.heads[:levels], reversed(maps), strict=False)]
