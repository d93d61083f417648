"""Steps of a training: convolutions that leave mixed precision, and voxels that nobody labelled."""

from __future__ import annotations

import torch
from torch import nn

from medvit.losses import SparseDiceCELoss
from medvit.training.steps import SmallGridsInFloat32, where_labelled


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


def test_no_gradient_comes_from_there() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, requires_grad=True)
    label = torch.randint(0, 3, (2, 1, 4, 5, 6))
    label[:, :, :2] = 3
    loss = SparseDiceCELoss()(*where_labelled(logits, label, 3))
    loss.backward()
    assert logits.grad[:, :, :2].abs().max() == 0 and logits.grad[:, :, 2:].abs().min() > 0
    changed = logits.detach().clone()
    changed[:, :, :2] = torch.randn(2, 3, 2, 5, 6)
    assert SparseDiceCELoss()(*where_labelled(changed, label, 3)) == loss


def test_deeper_outputs_are_masked_on_their_own_grids() -> None:
    outputs = [torch.randn(1, 3, 8, 8, 8), torch.randn(1, 3, 4, 4, 4)]
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    label[:, :, :4] = 3
    masked, known = where_labelled(outputs, label, 3)
    assert known.max() == 0
    for before, after in zip(outputs, masked, strict=True):
        half = before.shape[2] // 2
        assert (after[:, 0, :half] > after[:, 1:, :half].amax(1)).all()
        assert torch.equal(after[:, :, half:], before[:, :, half:])


def test_labels_that_are_whole_pass_as_they_are() -> None:
    logits, label = torch.randn(1, 3, 4, 4, 4), torch.full((1, 1, 4, 4, 4), 2)
    assert where_labelled(logits, label, 3) == (logits, label)
