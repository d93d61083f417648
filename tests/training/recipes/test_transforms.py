"""Transforms of recipes: labels by the manifest, slices first and back, slices scaled one by one."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from medvit.datasets import read_manifest
from medvit.errors import MedvitError
from medvit.training.recipes import (
    ManifestLabelsd,
    ScaleSlicesd,
    SlicesFirstd,
)


def test_regions_follow_the_manifest_and_not_the_numbers() -> None:
    names = ("TC", "WT", "ET")
    brats21 = MetaTensor(torch.tensor([0, 1, 2, 4]).reshape(1, 4, 1, 1))
    decathlon = MetaTensor(torch.tensor([0, 2, 1, 3]).reshape(1, 4, 1, 1))
    expected = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1.0]])
    for manifest, label_map in (("brats2021", brats21), ("brats2017", decathlon)):
        masks = ManifestLabelsd("label", manifest, names)({"label": label_map})["label"]
        torch.testing.assert_close(masks.as_tensor()[..., 0, 0], expected)
    with pytest.raises(MedvitError, match="does not know"):
        ManifestLabelsd("label", "brats2017", names)({"label": brats21})
    with pytest.raises(MedvitError, match="no region XX"):
        ManifestLabelsd("label", "brats2017", ["XX"])


def test_synapse_labels_take_transunets_numbers() -> None:
    label_map = MetaTensor(torch.arange(14).reshape(1, 14, 1, 1))
    table = ManifestLabelsd("label", "synapse")({"label": label_map})["label"]
    names = [s.name for s in read_manifest("synapse").labels or ()]
    assert table.flatten().tolist() == [0, 7, 4, 3, 2, 0, 5, 8, 1, 0, 0, 6, 0, 0]
    assert names[0] == "aorta" and names[7] == "stomach"


def test_slices_first_and_back() -> None:
    affine = torch.tensor([[1.0, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    image = MetaTensor(torch.rand(2, 3, 4, 5), affine=affine)
    turn = SlicesFirstd("image")
    turned = turn({"image": image})
    assert turned["image"].shape == (2, 5, 4, 3)
    assert turned["image"].pixdim.tolist() == [3, 2, 1]
    # A voxel keeps its place.
    place = turned["image"].affine.float() @ torch.tensor([4.0, 3, 2, 1])
    torch.testing.assert_close(place, affine @ torch.tensor([2.0, 3, 4, 1]))
    back = turn.inverse(turned)["image"]
    torch.testing.assert_close(back.as_tensor(), image.as_tensor())
    torch.testing.assert_close(back.affine.float(), affine)


def test_slices_are_scaled_one_by_one() -> None:
    image = torch.rand(1, 4, 4, 3) * torch.tensor([1.0, 10, 0]) + 5
    scaled = ScaleSlicesd("image")({"image": image})["image"]
    assert scaled.amax((1, 2)).tolist() == [[1, 1, 0]] and scaled.amin((1, 2)).tolist() == [[0, 0, 0]]
