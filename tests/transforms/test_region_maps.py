"""`RegionMapd`: a map for each image, in its space, from any source."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.errors import MissingExtraError
from medvit.networks.rat import group_regions
from medvit.transforms import RegionMapd
from tests.transforms.phantoms import body


def test_the_transform_adds_a_map_in_the_image_space() -> None:
    image = MetaTensor(torch.from_numpy(body()), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    sample = RegionMapd("image", source="slic", n_segments=16)({"image": image})
    regions = sample["regions"]
    assert regions.shape == (1, 64, 48) and regions.dtype == torch.int32
    assert torch.equal(regions.affine, image.affine)
    assert regions.meta["region_source"] == "slic, n_segments=16"
    assert "region_source" not in image.meta
    assert len(group_regions(regions[:, ::4, ::4].flatten(1))) > 0


def test_two_images_get_two_maps() -> None:
    transform = RegionMapd(["ct", "pet"], ["ct_regions", "pet_regions"], allow_missing_keys=True)
    sample = transform({"pet": body(32, 32)})
    assert set(sample) == {"pet", "pet_regions"}
    with pytest.raises(ValueError, match="its own region key"):
        RegionMapd(["ct", "pet"])


def test_a_given_map_is_taken_as_it_is() -> None:
    transform = RegionMapd("image", source="given")
    labels = np.arange(64 * 48, dtype=np.float64).reshape(1, 64, 48) // 100
    regions = transform({"image": body(), "regions": labels})["regions"]
    np.testing.assert_array_equal(regions.numpy(), labels)
    assert regions.meta["region_source"] == "given"
    with pytest.raises(ValueError, match=r"the region map is \(48, 64\), its image \(64, 48\)"):
        transform({"image": body(), "regions": labels.reshape(1, 48, 64)})
    with pytest.raises(ValueError, match="has no 'regions'"):
        transform({"image": body()})


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="source must be"):
        RegionMapd("image", source="watershed")
    with pytest.raises(ValueError, match=r"\(C, H, W\), 'image' is \(1, 8, 8, 8\)"):
        RegionMapd("image")({"image": np.zeros((1, 8, 8, 8))})
    monkeypatch.setitem(sys.modules, "transformers", None)
    transform = RegionMapd("image", source="sam", weights=tmp_path)
    with pytest.raises(MissingExtraError, match=r"pip install 'medvit\[sam\]'"):
        transform({"image": body()})
