"""Intensities into a restorer's units, and what no restorer may touch."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from medvit.transforms import ClampRestoredd, KeepOutsided, ScaleToUnitd
from medvit.transforms.restoration import UNIT


def test_a_fixed_unit_divides_what_the_limits_leave() -> None:
    image = MetaTensor(torch.tensor([[[-3024.0, -1000.0], [0.0, 9000.0]]]))
    scaled = ScaleToUnitd("image", (-1024, 3071), 250.0)({"image": image})["image"]
    assert torch.allclose(scaled.as_tensor() * 250, torch.tensor([[[-1024.0, -1000.0], [0.0, 3071.0]]]))
    assert scaled.meta[UNIT] == 250.0
    assert image.min() == -3024


def test_its_own_unit_is_the_bright_tissue_and_not_the_air() -> None:
    image = torch.zeros(1, 100, 100)
    image[:, :20] = torch.linspace(100, 300, 2000).reshape(20, 100)
    for empty in (0, 30000):
        padded = MetaTensor(torch.cat([image.flatten(), torch.zeros(empty)])[None, None])
        unit = ScaleToUnitd("image", (1e-6, 1e9))({"image": padded})["image"].meta[UNIT]
        assert unit == pytest.approx(299, abs=1.5)
    assert ScaleToUnitd("image", (1e-6, 1e9))({"image": MetaTensor(torch.zeros(1, 4, 4))})["image"].max() < 1


def test_padding_and_metal_stay() -> None:
    source = torch.tensor([[-3024.0, -500.0, 100.0, 5000.0]])
    restored = torch.tensor([[-1024.0, -510.0, 90.0, 3000.0]])
    kept = KeepOutsided("pred", (-1024, 3071))({"pred": restored, "source": source})["pred"]
    assert kept.tolist() == [[-3024.0, -510.0, 90.0, 5000.0]]


def test_no_voxel_leaves_what_its_kind_of_image_can_hold() -> None:
    restored = torch.tensor([-1100.0, -1000.0, 50.0, 4000.0]).reshape(1, 4, 1, 1)
    clamped = ClampRestoredd("pred", (-1024, 3071))({"pred": restored})["pred"]
    assert clamped.flatten().tolist() == [-1024.0, -1000.0, 50.0, 3071.0]


def test_a_magnitude_is_not_negative_and_no_brighter_than_its_neighbourhood() -> None:
    source = torch.zeros(1, 8, 8, 3, dtype=torch.int16)
    source[0, 2, 2, 1], source[0, 6, 6, 1] = 100, 40
    restored = torch.full((1, 8, 8, 3), 70.0)
    restored[0, 0, 0] = -5
    clamp = ClampRestoredd("pred", (1e-6, 1e9), within_source=True)
    clamped = clamp({"pred": MetaTensor(restored), "source": source})["pred"]
    assert clamped[0, 2, 2, 1] == 70 and clamped[0, 3, 3, 2] == 70
    assert clamped[0, 6, 5, 0] == 40
    assert 0 < clamped[0, 0, 0].max() < 1e-5 and 0 < clamped[0, 0, 7, 0] < 1e-5
