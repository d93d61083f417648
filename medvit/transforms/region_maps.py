"""`RegionMapd`: the region map of an image in a chain of transforms, from any source."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep

from medvit.transforms.regions import RegionMap, felzenszwalb_regions, given_regions, slic_regions
from medvit.transforms.sam_regions import SamRegions


class RegionMapd(MapTransform):
    """Adds the region map of an image, or checks an existing one.

    Parameters
    ----------
    keys
        Images (C, H, W).
    region_keys
        Where the maps go, one for each image (or stand, where `source` is ``"given"``).
    source
        ``"felzenszwalb"``, ``"slic"``, ``"sam"`` (see `SamRegions`; needs ``medvit[sam]`` and
        ``weights=FOLDER``), or ``"given"``: a map that was loaded beside the image, by the same reader.
    allow_missing_keys
        Whether images may be missing.
    **options
        Options of the source: see `felzenszwalb_regions`, `slic_regions`, `SamRegions`.

    Notes
    -----
    A map is an int32 `MetaTensor` (1, H, W) in the image's space. Its ``meta["region_source"]`` says how it
    was made: a network does best with regions of the kind that it was trained on, so it belongs in the
    record of every result.

    Raises
    ------
    ValueError
        If the source is unknown, the image is not (C, H, W), or a given map does not fit it.

    Examples
    --------
    >>> sample = {"image": torch.rand(1, 64, 48)}
    >>> RegionMapd("image", source="slic", n_segments=16)(sample)["regions"].shape
    torch.Size([1, 64, 48])
    """

    def __init__(
        self,
        keys: KeysCollection,
        region_keys: KeysCollection = "regions",
        source: str = "felzenszwalb",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.region_keys = ensure_tuple_rep(region_keys, len(self.keys))
        if len(set(self.region_keys)) < len(self.keys):
            raise ValueError(f"each of {list(self.keys)} needs its own region key")
        makers: dict[str, Callable[..., RegionMap]] = {
            "felzenszwalb": felzenszwalb_regions,
            "slic": slic_regions,
        }
        if source not in (*makers, "sam", "given"):
            raise ValueError(f"source must be 'felzenszwalb', 'slic', 'sam' or 'given', not {source!r}")
        self.options: dict[str, Any] = options
        self.maker = makers.get(source)
        if source == "sam":
            self.maker, self.options = SamRegions(**options), {}
        self.source = ", ".join([source, *(f"{name}={value}" for name, value in sorted(options.items()))])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with a region map for every image.

        Raises
        ------
        ValueError
            If an image is not (C, H, W), or a given map is missing or does not fit.
        """
        sample = dict(data)
        for key, region_key in self.key_iterator(sample, self.region_keys):
            image = sample[key]
            values = np.asarray(image.detach().cpu() if isinstance(image, torch.Tensor) else image)
            if values.ndim != 3:
                raise ValueError(f"regions need an image (C, H, W), {key!r} is {values.shape}")
            if self.maker is not None:
                regions = self.maker(values, **self.options)
            elif region_key in sample:
                given = sample[region_key]
                given = given.detach().cpu() if isinstance(given, torch.Tensor) else given
                regions = given_regions(given, values.shape[1:])
            else:
                raise ValueError(f"source is 'given', but the sample has no {region_key!r}")
            result = MetaTensor(torch.from_numpy(regions)[None])
            if isinstance(image, MetaTensor):
                result.copy_meta_from(image)
            result.meta["region_source"] = self.source
            sample[region_key] = result
        return sample
