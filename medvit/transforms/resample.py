"""`ResampleImaged`: to the spacing of a network, averaging where voxels become larger."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from medvit.inference import resample_image


class ResampleImaged(MapTransform):
    """Linear interpolation to a spacing, on the grid of MONAI's ``Spacingd``.

    Along an axis whose voxels become larger, the image is first averaged over the new voxel's width: taking
    every second voxel of a finer image would alias its noise and edges into the result.

    Parameters
    ----------
    keys
        MetaTensors (C, X, Y, Z) with an affine in mm.
    spacing
        Along each axis, in mm.
    """

    def __init__(self, keys: KeysCollection, spacing: Sequence[float]) -> None:
        super().__init__(keys)
        self.spacing = tuple(spacing)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its images resampled."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            present = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
            smooth = average(
                image.as_tensor().float(), [s / p for s, p in zip(self.spacing, present, strict=True)]
            )
            result[key] = resample_image(MetaTensor(smooth, meta=image.meta), self.spacing)
        return result


def average(image: Tensor, widths: Sequence[float]) -> Tensor:
    """(C, X, Y, Z) averaged over a box of `widths` voxels (below 1: as it is), the border repeated."""
    for axis, width in enumerate(widths, start=1):
        if width <= 1.001 or image.shape[axis] == 1:
            continue
        radius = int(np.ceil((width - 1) / 2))
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = (width / 2 + 0.5 - offsets.abs()).clamp(0, 1)
        lines = image.movedim(axis, -1)
        padded = F.pad(lines.flatten(0, -2)[:, None], (radius, radius), mode="replicate")
        averaged = F.conv1d(padded, (kernel / kernel.sum()).reshape(1, 1, -1))
        image = averaged.reshape(lines.shape).movedim(-1, axis)
    return image
