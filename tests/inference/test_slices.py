"""Two-dimensional networks see every slice once and give what they give slice by slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Orientationd
from torch import nn

from medvit.inference import SliceInferer, SliceRestorer
from medvit.transforms import ScaleToUnitd
from tests.inference.cases import GRIDS, study


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 4, 5, padding=2)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slices", [1, 8, 100])
def test_equals_slice_by_slice(axis: int, slices: int) -> None:
    image = study(GRIDS["anisotropic"])[None]
    labels = SliceInferer((24, 16), 0.25, slices, slice_axis=axis)(image, network())[0, 0].movedim(axis, 0)
    with torch.no_grad():
        for found, plane in zip(labels, image[0, 0].as_tensor().movedim(axis, 0), strict=True):
            logits = SlidingWindowInferer((24, 16), 1, 0.25, mode="gaussian")(plane[None, None], network())
            assert (found == logits[0].argmax(0)).float().mean() > 0.999


def test_goes_to_the_grid_of_the_study() -> None:
    grid = GRIDS["oblique"]
    inferer = SliceInferer((None, None), slice_axis=2)
    assert inferer.segment(study(grid), network(), grid).shape == grid.shape
    assert inferer.report.windows == -(-grid.shape[2] // 8)


def test_refuses_windows_of_three_axes() -> None:
    with pytest.raises(ValueError, match="two values"):
        SliceInferer((24, 24, 24))


@pytest.mark.parametrize("name", ["permuted", "oblique_left_handed_permuted"])
def test_restores_in_the_grid_and_the_intensities_of_the_study(name: str) -> None:
    class Doubled(nn.Module):
        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            assert slices.ndim == 4 and slices.abs().max() <= 1
            return 2 * slices

    source = study(GRIDS[name])
    sides = (("L", "R"), ("P", "A"), ("I", "S"))
    prepare = Compose([Orientationd("image", "RAS", labels=sides), ScaleToUnitd("image", (-50, 50), 50.0)])
    image = prepare({"image": source})["image"]
    restored = SliceRestorer((24, 16), 0.25, 4, grid="source")(image[None], Doubled())[0]
    torch.testing.assert_close(restored.as_tensor(), 2 * source.as_tensor(), atol=1e-3, rtol=1e-4)
    assert np.allclose(restored.affine, GRIDS[name].affine)
