"""Products of small matrices give what torch's operators give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers import pyramid


def trilinear(x: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


@pytest.mark.parametrize("size", [[6, 8, 10], [7, 5, 13], [2, 9, 5]])
def test_upsampling_is_trilinear(size: list[int]) -> None:
    x = torch.randn(2, 3, 3, 4, 5)
    for memory in (x, x.movedim(1, -1).contiguous().movedim(-1, 1)):
        torch.testing.assert_close(pyramid.upsampled(memory, size), trilinear(x, size))


def test_levels_are_added_at_the_size_of_the_finest() -> None:
    target = torch.randn(2, 6, 8, 10, 5)
    levels = [torch.randn(2, *size, 5) for size in ((3, 4, 5), (2, 2, 3), (1, 1, 1))]
    expected = target + sum(trilinear(level.movedim(-1, 1), [6, 8, 10]).movedim(1, -1) for level in levels)
    torch.testing.assert_close(pyramid.add_upsampled_(target, levels), expected)
    torch.testing.assert_close(target, expected)


@torch.no_grad()
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_a_layer_norm_of_a_projection_is_mixed_in_the_narrow_channels(offset: float) -> None:
    torch.manual_seed(0)
    project, norm, kernel = nn.Linear(6, 40), nn.LayerNorm(40), torch.randn(9, 40)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    # A mean that all channels share is taken away by the norm.
    project.bias += offset
    x = torch.randn(2, 3, 4, 5, 6)
    found = pyramid.mixed_narrow(x, project, norm, kernel)
    # In single precision the plain form loses digits to the offset.
    expected = F.linear(norm.double()(project.double()(x.double())), kernel.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_projection_that_is_constant_is_as_stable_as_the_plain_norm() -> None:
    project, norm, kernel = nn.Linear(6, 40), nn.LayerNorm(40), torch.randn(9, 40)
    nn.init.zeros_(project.weight)
    nn.init.constant_(project.bias, 3.0)
    found = pyramid.mixed_narrow(torch.randn(1, 2, 2, 2, 6), project, norm, kernel)
    torch.testing.assert_close(found, torch.zeros_like(found))
