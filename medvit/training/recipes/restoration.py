"""RAT's loss for training loops that know one image and one target: the region map travels as a channel."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor, nn


class RegionsToLabeld(MapTransform):
    """Appends the last channel of an image, its region map, to the target.

    Parameters
    ----------
    keys
        Targets (C, ...).
    image_key
        The image (C + 1, ...), see `medvit.transforms.RegionChanneld`.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its targets (C + 1, ...)."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = torch.cat([sample[key], sample[self.image_key][-1:]])
        return sample


class RegionChannelLoss(nn.Module):
    """A loss of image, target and region map, of which the map is the target's last channel.

    Parameters
    ----------
    loss
        Such as `medvit.losses.FocalRegionLoss`.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss of an image (B, C, H, W) against a target and its regions (B, C + 1, H, W)."""
        return self.loss(output, target[:, :-1], target[:, -1])
