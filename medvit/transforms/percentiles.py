"""Scaling of intensities between two percentiles, on the device of the image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ScaleIntensityRangePercentiles
from torch import Tensor


class ScaleToPercentilesd(MapTransform):
    """Scale the intensities between two percentiles of an image to 0..1, and clip the rest.

    On a CPU this is MONAI's ``ScaleIntensityRangePercentilesd``. That transform copies images of more than a
    million voxels to the host for their percentiles; on any other device this one leaves them there.

    Parameters
    ----------
    keys
        Images (C, X, Y, Z); an image of one value becomes 0.
    lower, upper
        Percentiles, of all channels together.
    """

    def __init__(self, keys: KeysCollection, lower: float = 0.5, upper: float = 99.5) -> None:
        super().__init__(keys)
        self.lower, self.upper = lower, upper
        self._on_cpu = ScaleIntensityRangePercentiles(lower, upper, b_min=0.0, b_max=1.0, clip=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its images scaled."""
        result = dict(data)
        for key in self.key_iterator(result):
            image: MetaTensor = result[key]
            if image.device.type == "cpu":
                result[key] = self._on_cpu(image)
            else:
                scaled = scale_to_percentiles(image.as_tensor(), self.lower, self.upper)
                result[key] = MetaTensor(scaled).copy_meta_from(image)
        return result


def scale_to_percentiles(image: Tensor, lower: float, upper: float) -> Tensor:
    """An image in float32, its percentiles `lower` and `upper` mapped to 0 and 1 on its device."""
    image = image.float()
    values = image.flatten()
    low, high = _percentile(values, lower), _percentile(values, upper)
    width = high - low
    return torch.where(width > 0, ((image - low) / width).clamp(0, 1), image - low)


def _percentile(values: Tensor, percent: float) -> Tensor:
    """As `numpy.percentile`, linear between two ranks. Selecting them takes no index for each voxel."""
    place = percent / 100 * (values.numel() - 1)
    rank = int(place)
    below = values.kthvalue(rank + 1).values
    above = values.kthvalue(min(rank + 2, values.numel())).values
    return torch.lerp(below, above, place - rank)
