"""The region map in a loop that knows one image and one target."""

from __future__ import annotations

import torch

from medvit.losses import FocalRegionLoss
from medvit.training.recipes import (
    RegionChannelLoss,
    RegionsToLabeld,
)


def test_the_region_map_travels_with_the_target() -> None:
    image, target = torch.rand(2, 8, 8), torch.rand(1, 8, 8)
    image[1] = (torch.arange(8) // 4).float()
    label = RegionsToLabeld("label")({"image": image, "label": target})["label"]
    output = torch.rand(1, 1, 8, 8)
    loss = FocalRegionLoss(beta=1.0)
    given = RegionChannelLoss(loss)(output, label[None])
    torch.testing.assert_close(given, loss(output, target[None], image[None, 1]))
