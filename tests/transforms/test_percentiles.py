"""Percentiles on a device are those of a CPU, and the host is asked for nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRangePercentilesd

from benchmarks._measure import Launches
from medvit.studies.study import Grid, LoadedStudy, Series
from medvit.transforms import ScaleToPercentilesd, prepare_head_mr
from medvit.transforms.percentiles import scale_to_percentiles


@pytest.mark.parametrize("shape", [(1, 7, 5, 3), (2, 30, 40, 20), (1, 128, 100, 90)])
def test_both_ways_scale_as_monai(shape: tuple[int, ...]) -> None:
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs() * 300
    monai = ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True)
    expected = monai({"image": MetaTensor(image)})["image"]
    on_cpu = ScaleToPercentilesd("image")({"image": MetaTensor(image)})["image"]
    assert torch.equal(on_cpu, expected)
    with Launches() as launches:
        there = scale_to_percentiles(image, 0.5, 99.5)
    torch.testing.assert_close(there, expected.as_tensor(), atol=2e-6, rtol=0)
    assert launches.reads == 0


def test_an_image_of_one_value_becomes_zero() -> None:
    assert not scale_to_percentiles(torch.full((1, 4, 4, 4), 7.0), 0.5, 99.5).any()


@pytest.mark.parametrize("axes", [np.eye(3), np.diag([-1, 1, 1]), np.eye(3)[[2, 0, 1]]])
def test_a_head_is_prepared_where_it_lies(axes: np.ndarray) -> None:
    """On torch's device without memory, where reading a value or leaving the device is an error."""
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag([0.9, 1.1, 2.5])
    grid = Grid((40, 30, 20), affine)
    prepared = {}
    for device in ("cpu", "meta"):
        voxels = torch.rand(1, 40, 30, 20, generator=torch.Generator().manual_seed(0)).to(device)
        image = MetaTensor(voxels, affine=torch.from_numpy(affine))
        study = LoadedStudy("head", (Series((), "memory"),), image=image, grid=grid)
        prepared[device] = prepare_head_mr("image", (1.0, 1.0, 1.0))({"image": study})["image"]
    assert prepared["meta"].device.type == "meta"
    assert prepared["meta"].shape == prepared["cpu"].shape
    assert torch.equal(prepared["meta"].affine, prepared["cpu"].affine)
