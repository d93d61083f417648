"""What the goldens of CSWin do not show: three dimensions, any size, windows, training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medvit.errors import WeightsError
from medvit.networks import CSwin, CSwinUNet
from medvit.networks.layers.stripes import CSwinBlock, crossed_stripes


def test_a_flat_volume_is_what_a_slice_is() -> None:
    """With one slice, and the slice's kernel in the middle of the volume's, both blocks are one function."""
    torch.manual_seed(0)
    flat = CSwinBlock(8, 4, crossed_stripes(3))
    deep = CSwinBlock(8, 4, [(None, None, 3), (None, 3, None)])
    state = flat.state_dict()
    for name in [name for name in state if name.endswith("get_v.weight")]:
        kernel = torch.zeros(4, 1, 3, 3, 3)
        kernel[:, :, 1] = state[name]
        state[name] = kernel
    deep.load_state_dict(state)
    image = torch.randn(2, 7, 10, 8)  # a side of 7 and one of 10 are filled up to whole stripes
    torch.testing.assert_close(deep(image[:, None])[:, 0], flat(image))


def test_stripes_along_three_axes() -> None:
    block = CSwinBlock(12, 6, [(None, 2, 2), (2, None, 2), (2, 2, None)]).eval()
    x = torch.randn(1, 4, 6, 5, 12)
    moved = x.clone()
    moved[0, 0, 0, 0, 0] += 1
    with torch.no_grad():
        reached = (block(moved) - block(x)).abs().sum(-1)[0] > 1e-6
    assert reached[3, 0, 0] and reached[0, 5, 0] and reached[0, 0, 4]
    assert not reached[3, 5, 4]


def test_unequal_stripes_attend_as_they_would_alone() -> None:
    """Windows of all groups are attended in one call where they are as large; a map that is no square."""
    torch.manual_seed(0)
    block = CSwinBlock(8, 2, crossed_stripes(2)).eval()
    x = torch.randn(1, 4, 8, 8)
    whole = block(x)
    column = block._attended(block.qkv(block.norm1(x)))[..., :4]
    alone = CSwinBlock(8, 2, crossed_stripes(2)).eval()
    alone.load_state_dict(block.state_dict())
    part = alone._attended(alone.qkv(alone.norm1(x[:, :, 2:4])))[..., :4]
    torch.testing.assert_close(column[:, :, 2:4], part)
    assert whole.shape == x.shape


@pytest.mark.parametrize("size", [(64, 64), (50, 77)])
def test_slices_of_any_size_and_every_parameter_learns(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = CSwinUNet(1, 3, img_size=64, embed_dim=16, depths=(1, 1, 1, 1), stripe_widths=(1, 2, 2, 2))
    output: Tensor = network(torch.rand(1, 1, *size))
    assert output.shape == (1, 3, *size)
    output.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_stage_as_large_as_its_stripe_is_one_window() -> None:
    sizes = {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 1, 1)}
    assert len(CSwinUNet(1, 2, stripe_widths=(1, 2, 4, 2), **sizes).stage3[0].attns) == 1
    assert len(CSwinUNet(1, 2, stripe_widths=(1, 2, 2, 2), **sizes).stage3[0].attns) == 2


def test_a_trained_checkpoint_has_the_wrapper_before_each_name() -> None:
    network = CSwinUNet(1, 2, img_size=64, embed_dim=16, depths=(1, 1, 1, 1), stripe_widths=(1, 2, 2, 2))
    state = {f"module.cswin_unet.{name}": value + 1 for name, value in network.state_dict().items()}
    wanted = state["module.cswin_unet.output.weight"].clone()
    network.load_published(state)
    assert torch.equal(network.output.weight, wanted)


def test_a_backbone_fills_the_stages_down_and_up_and_lends_its_first_blocks() -> None:
    torch.manual_seed(0)
    backbone = CSwin(3, 16, (1, 1, 3, 1), (2, 4, 8, 16), (1, 2, 2, 2))
    network = CSwinUNet(1, 2, img_size=64, embed_dim=16, depths=(1, 1, 2, 1), stripe_widths=(1, 2, 2, 2))
    joins = network.concat_linear2.weight.clone()
    given = {name: value + 1 for name, value in backbone.state_dict().items()}
    report = network.load_backbone({"state_dict_ema": given})
    assert torch.equal(network.stage3[1].qkv.weight, given["stage3.1.qkv.weight"])
    assert torch.equal(network.stage_up3[1].qkv.weight, given["stage3.1.qkv.weight"])
    assert torch.equal(network.norm.weight, given["norm4.weight"])
    assert torch.equal(network.concat_linear2.weight, joins)
    begun = ("stage", "merge", "norm.")
    assert report.matched == sum(name.startswith(begun) for name in network.state_dict())
    assert {name[:8] for name in report.ignored} >= {"stage3.2", "norm1.we", "norm4.we"}
    del given["merge2.conv.bias"]
    with pytest.raises(WeightsError, match=r"merge2\.conv\.bias"):
        network.load_backbone(given)


def test_stochastic_depth_acts_while_training_alone() -> None:
    torch.manual_seed(0)
    network = CSwin(1, 8, (1, 1, 1, 1), (2, 4, 8, 8), (1, 2, 2, 2), drop_path_rate=0.9)
    image = torch.rand(4, 1, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(network(image)[-1], network(image)[-1])
        network.eval()
        assert torch.equal(network(image)[-1], network(image)[-1])


def test_heads_that_stripes_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot share"):
        CSwinBlock(9, 3, crossed_stripes(2))
