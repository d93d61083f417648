"""The region map as a channel gives what the map as an argument gives."""

from __future__ import annotations

import torch
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
