"""The region map as a channel gives what the map as an argument gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from medvit.networks import RAT, RegionInput


def test_the_last_channel_is_the_map() -> None:
    torch.manual_seed(0)
    network = RAT(1, width=8, num_blocks=1, num_heads=4, encoder_depths=(1, 1), decoder_depths=(1, 1)).eval()
    for name, parameter in network.named_parameters():
        if "scale" in name:
            nn.init.normal_(parameter)
    image, regions = torch.randn(2, 1, 32, 48), torch.randint(0, 5, (2, 1, 32, 48)).float()
    joined = RegionInput(network)
    with torch.no_grad():
        expected = network(image, regions)
        torch.testing.assert_close(joined(torch.cat([image, regions], 1)), expected)
        # A resampled or scaled map may be off a whole number by a rounding error.
        torch.testing.assert_close(joined(torch.cat([image, regions + 1e-3], 1)), expected)
        assert not torch.allclose(joined(torch.cat([image, 0 * regions], 1)), expected, atol=1e-3)


class Flattening(nn.Module):
    """Takes everything out of an image."""

    def forward(self, image: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(image)


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_what_is_coarse_comes_back_from_the_input(sigma: float) -> None:
    image = torch.randn(2, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    network = RegionInput(Flattening(), coarse_from_input=sigma)
    assert not network(image).any()  # in training
    restored = network.eval()(image).numpy()
    expected = gaussian_filter(image[:, :-1].numpy(), (0, 0, sigma, sigma), mode="nearest")
    np.testing.assert_allclose(restored, expected, atol=1e-5)
    even = torch.full((1, 2, 5, 6), 3.0)
    torch.testing.assert_close(RegionInput(Flattening(), sigma).eval()(even), even[:, :1])
    assert not RegionInput(Flattening()).eval()(image).any()


def test_the_weights_are_those_of_the_network_alone() -> None:
    network = nn.Conv2d(1, 1, 3)
    assert RegionInput(network, 2.0).state_dict().keys() == RegionInput(network).state_dict().keys()
    with pytest.raises(ValueError, match="not -1"):
        RegionInput(network, -1)


def test_it_can_be_scripted() -> None:
    config: dict = {
        "width": 8,
        "num_blocks": 1,
        "num_heads": 4,
        "encoder_depths": (1, 1),
        "decoder_depths": (1, 1),
    }
    network = RegionInput(RAT(1, **config), 1.5).eval()
    image = torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image), network(image))
