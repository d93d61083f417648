"""`DetailSegmenter`: half resolution inside, single voxels outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvit.networks import DetailSegmenter, SegFormer3D
from medvit.networks.layers.detail import fold, unfold


def test_unfold_undoes_fold_and_neighbours_share_a_cell() -> None:
    x = torch.arange(2 * 3 * 4 * 6 * 8).reshape(2, 3, 4, 6, 8)
    folded = fold(x)
    assert folded.shape == (2, 24, 2, 3, 4)
    assert torch.equal(folded[1, 8:16, 1, 2, 3].reshape(2, 2, 2), x[1, 1, 2:, 4:, 6:])
    assert torch.equal(unfold(folded), x)


def test_the_network_inside_sees_half_the_resolution() -> None:
    seen = []

    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape))
            return x

    network = DetailSegmenter(Inner(), in_channels=2, out_channels=5, width=16)
    assert network(torch.rand(1, 2, 8, 12, 10)).shape == (1, 5, 8, 12, 10)
    assert seen == [(1, 16, 4, 6, 5)]


def test_a_change_in_one_voxel_reaches_that_voxels_logits() -> None:
    network = DetailSegmenter(nn.Identity(), in_channels=1, out_channels=2, width=8)
    image = torch.rand(1, 1, 8, 8, 8, requires_grad=True)
    network(image)[0, 0, 3, 4, 5].backward()
    assert image.grad is not None and image.grad[0, 0, 3, 4, 5] != 0


def test_stem_and_readout_are_those_of_segformer3d() -> None:
    """So that one's trained ones start the other."""
    donor = SegFormer3D(
        1, 4, embed_dims=(16, 16, 16, 16), num_heads=(1, 1, 1, 1), decoder_dim=16, head="detail", norm="group"
    )
    network = DetailSegmenter(nn.Identity(), in_channels=1, out_channels=4, width=16)
    shared = {
        name: value
        for name, value in donor.state_dict().items()
        if name.startswith(("stem.", "head.refine.", "head.readout."))
    }
    assert set(shared) == set(network.state_dict())
    network.load_state_dict(shared)


def test_the_readout_by_planes_gives_the_plain_ones_numbers() -> None:
    torch.manual_seed(0)
    network = DetailSegmenter(nn.Identity(), in_channels=1, out_channels=3, width=8).eval()
    image = torch.rand(2, 1, 8, 12, 10)
    plain = network(image)
    with torch.no_grad():
        assert torch.allclose(network(image), plain, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8, 7), (1, 1, 8, 8)])
def test_what_does_not_fold_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="even edges"):
        DetailSegmenter(nn.Identity(), 1, 2, 8)(torch.zeros(shape))
