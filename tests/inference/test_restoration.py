"""Restored images come back in the study's grid and intensities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Invertd, Orientationd, Spacingd
from torch import nn

from medvit.inference import RestorationInferer
from tests.inference.cases import GRIDS, study

ROI = (24, 20, 16)


class Blur(nn.Module):
    """Two output channels: the image smoothed, and twice the image."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([nn.functional.avg_pool3d(windows, 3, 1, 1), 2 * windows], dim=1)


def test_overlap_add_is_that_of_monai() -> None:
    image = study(GRIDS["axial"])[None]
    expected = SlidingWindowInferer(ROI, 1, 0.5, mode="gaussian")(image, Blur())
    restored = RestorationInferer(ROI, 0.5, axis=2)(image, Blur())
    assert restored.dtype == torch.float32
    assert np.allclose(restored.affine, image.affine)
    torch.testing.assert_close(restored.as_tensor(), expected.as_tensor(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["permuted", "oblique_left_handed_permuted"])
def test_goes_back_to_grid_and_units_of_the_study(name: str) -> None:
    steps = Compose(
        [
            Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd("image", pixdim=(1.3, 1.1, 1.2), mode="bilinear"),
        ]
    )
    case = steps({"image": study(GRIDS[name])})
    case["restored"] = SlidingWindowInferer(ROI, 1, 0.5, mode="gaussian")(case["image"][None], Blur())[0]
    expected = Invertd("restored", steps, orig_keys="image", nearest_interp=False)(case)["restored"]
    restored = RestorationInferer(ROI, 0.5).restore(
        case["image"], Blur(), GRIDS[name], to_units=lambda values: 1000 * values - 24
    )
    assert restored.shape == (2, *GRIDS[name].shape)
    assert np.allclose(restored, 1000 * expected.numpy() - 24, atol=0.05)


def test_units_of_one_study_do_not_reach_the_next() -> None:
    image = study(GRIDS["axial"])
    inferer = RestorationInferer(ROI)
    scaled = inferer.restore(image, Blur(), to_units=lambda values: 10 * values)
    assert np.allclose(scaled, 10 * inferer.restore(image, Blur()), atol=1e-4)
    assert np.allclose(scaled, 10 * inferer(image[None], Blur())[0].numpy(), atol=1e-4)
