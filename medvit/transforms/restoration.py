"""Intensity scaling for restoration networks, and limits on what they may change in an image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

# Key of an image's meta data with the intensity of the study that became 1.
UNIT = "intensity_unit"


class ScaleToUnitd(MapTransform):
    """Clip intensities to limits and divide them by a unit, which the image's meta data then state.

    Parameters
    ----------
    keys
        Images.
    limits
        Lowest and highest intensity.
    unit
        Intensity that becomes 1; by default the 99.5 percentile of the intensities above the lower limit.
    """

    def __init__(self, keys: KeysCollection, limits: Sequence[float], unit: float | None = None) -> None:
        super().__init__(keys)
        self.limits, self.unit = (float(limits[0]), float(limits[1])), unit

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with scaled images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key].float()
            unit = self.unit or _bright(image, self.limits[0])
            scaled = MetaTensor(image.as_tensor().clamp(*self.limits) / unit).copy_meta_from(image)
            scaled.meta[UNIT] = unit
            sample[key] = scaled
        return sample


class KeepOutsided(MapTransform):
    """Restore the source's values beyond the limits, such as padding and metal, in a restored image.

    Parameters
    ----------
    keys
        Restored images, on the grid of the source.
    limits
        Lowest and highest intensity that the network was given.
    source_key
        Key of the source.
    """

    def __init__(self, keys: KeysCollection, limits: Sequence[float], source_key: str = "source") -> None:
        super().__init__(keys)
        self.limits, self.source_key = (float(limits[0]), float(limits[1])), source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with restored images."""
        sample = dict(data)
        source = torch.as_tensor(sample[self.source_key])
        outside = (source < self.limits[0]) | (source > self.limits[1])
        for key in self.key_iterator(sample):
            kept = source.to(sample[key].device)
            sample[key] = torch.where(outside.to(sample[key].device), kept, sample[key])
        return sample


class ClampRestoredd(MapTransform):
    """Clamp a restored image to the values that an image of its kind can hold.

    Parameters
    ----------
    keys
        Restored images (C, X, Y, Z), on the grid of the source.
    limits
        Lowest and highest possible intensity, such as 0 of a magnitude or -1024 HU of air.
    within_source
        Whether no voxel may be brighter than the brightest of its neighbourhood of 3 x 3 x 3 in the source:
        noise brightens the brightest voxel more than a restoration may.
    source_key
        Key of the source.
    """

    def __init__(
        self,
        keys: KeysCollection,
        limits: Sequence[float],
        within_source: bool = False,
        source_key: str = "source",
    ) -> None:
        super().__init__(keys)
        self.limits, self.within_source = (float(limits[0]), float(limits[1])), within_source
        self.source_key = source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with clamped images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key].clamp(*self.limits)
            if self.within_source:
                source = torch.as_tensor(sample[self.source_key]).to(image.device, torch.float32)
                highest = F.max_pool3d(source[None], 3, stride=1, padding=1)[0]
                image = torch.minimum(image, highest.to(image.dtype).clamp(min=self.limits[0]))
            sample[key] = image
        return sample


def _bright(image: torch.Tensor, lowest: float) -> float:
    """The 99.5 percentile above `lowest`, of at most about a million voxels; 1 for an empty image."""
    values = image.flatten()[:: max(1, image.numel() // 1_000_000)]
    values = values[values > lowest]
    bright = float(torch.quantile(values, 0.995)) if len(values) else 0.0
    return bright if bright > 0 else 1.0
