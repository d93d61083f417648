"""Mixed precision on a CPU: which convolutions leave it."""

from __future__ import annotations

import torch
from torch import nn

from medvit.training.steps import SmallGridsInFloat32


def test_convolutions_over_few_voxels_stay_in_float32() -> None:
    convolution = nn.Conv3d(4, 4, 3, padding=1)
    small, large = torch.rand(1, 4, 2, 9, 9), torch.rand(1, 4, 9, 9, 9)
    exact = convolution(small)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(small).dtype == torch.bfloat16
        with SmallGridsInFloat32():
            kept, lowered = convolution(small.bfloat16()), convolution(large)
    assert kept.dtype == torch.float32
    torch.testing.assert_close(kept, exact, rtol=0.02, atol=0.02)
    assert lowered.dtype == torch.bfloat16


def test_so_do_convolutions_whose_kernel_spans_the_grid() -> None:
    image = torch.rand(1, 4, 6, 9, 9)
    with torch.autocast("cpu", torch.bfloat16), SmallGridsInFloat32():
        types = [nn.Conv3d(4, 4, kernel)(image).dtype for kernel in (3, 5, 6)]
    assert types == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_their_gradients_are_those_of_float32() -> None:
    torch.manual_seed(0)
    convolution, image = nn.Conv3d(8, 8, 3, padding=1), torch.rand(1, 8, 1, 2, 1)
    with torch.autocast("cpu", torch.bfloat16), SmallGridsInFloat32():
        convolution(image).square().sum().backward()
    assert convolution.weight.grad is not None
    mixed = convolution.weight.grad.clone()
    convolution.zero_grad()
    convolution(image).square().sum().backward()
    torch.testing.assert_close(mixed, convolution.weight.grad)
