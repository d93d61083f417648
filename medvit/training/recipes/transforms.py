"""Preparation steps of published pipelines that MONAI lacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from torch import Tensor

from medvit.datasets import read_manifest
from medvit.errors import MedvitError


class ManifestLabelsd(MapTransform):
    """Label maps of a data set's files in the values of its label table, or as masks of its regions.

    What a value stands for differs between copies of one data set (an enhancing tumour is 4 in BraTS 2021
    and 3 in the Medical Segmentation Decathlon), so the manifest says it, and a value that it does not know
    is refused.

    Parameters
    ----------
    keys
        Label maps (1, X, Y, Z).
    manifest
        Of the data set: a file, or the name of one that comes with medvit.
    regions
        Names of regions that may overlap, one channel each; empty for one channel of values.

    Raises
    ------
    MedvitError
        If the manifest has no such region.
    """

    def __init__(self, keys: KeysCollection, manifest: str | Path, regions: Sequence[str] = ()) -> None:
        super().__init__(keys)
        self.manifest = read_manifest(manifest)
        unknown = [name for name in regions if name not in self.manifest.regions]
        if unknown or self.manifest.labels is None:
            known = ", ".join(self.manifest.regions) or "none"
            raise MedvitError(f"{self.manifest.path} has no region {', '.join(unknown)}; it has {known}")
        values = {structure.name: structure.value for structure in self.manifest.labels}
        self.parts = [[values[part] for part in self.manifest.regions[name]] for name in regions]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its label maps (1, ...) uint8, or (regions, ...) float32 of 0 and 1."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            label_map = self.manifest.to_table(np.asarray(sample[key]))
            if self.parts:
                masks = [np.isin(label_map[0], parts) for parts in self.parts]
                label_map = np.stack(masks).astype(np.float32)
            result = torch.from_numpy(label_map)
            sample[key] = MetaTensor(result).copy_meta_from(sample[key])
        return sample


class SlicesFirstd(MapTransform, InvertibleTransform):
    """(C, X, Y, Z) as (C, Z, Y, X), the axis order of SimpleITK and nnU-Net, and back.

    Networks whose patches are flat along their first axis were trained on it.

    Parameters
    ----------
    keys
        Images and label maps.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its axes reversed."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = _axes_reversed(sample[key])
            self.push_transform(sample, key)
        return sample

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its axes as they were."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            self.pop_transform(sample, key)
            sample[key] = _axes_reversed(sample[key])
        return sample


class ScaleSlicesd(MapTransform):
    """Each slice along the last axis scaled to 0 ... 1 by its own range, as SegFormer3D's BraTS images are.

    Parameters
    ----------
    keys
        Images (C, X, Y, Z); a constant slice becomes 0.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its images scaled."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image: Tensor = sample[key]
            low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
            sample[key] = (image - low) / torch.where(high > low, high - low, 1.0)
        return sample


def _axes_reversed(image: MetaTensor) -> MetaTensor:
    result = MetaTensor(image.as_tensor().permute(0, 3, 2, 1)).copy_meta_from(image)
    result.affine = image.affine[:, [2, 1, 0, 3]]
    return result
