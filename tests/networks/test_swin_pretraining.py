"""Turns and cut-outs of Swin UNETR's pre-training, and the way of its encoder into the segmenter."""

from __future__ import annotations

import torch

from medvit.networks import SwinPretrainer, SwinUNETR
from medvit.networks.swin_pretraining import cut_out, turn


def test_windows_are_turned_each_by_its_own_quarters() -> None:
    windows = torch.arange(32.0).reshape(2, 1, 2, 2, 4).expand(2, 1, 2, 2, 4)
    turned = turn(windows, torch.tensor([0, 2]))
    assert torch.equal(turned[0], windows[0])
    assert torch.equal(turned[1], windows[1].flip(1, 2))


def test_a_share_of_each_window_is_replaced_by_noise_or_by_another_window() -> None:
    values = (5.0, 6.0, 7.0, 8.0)
    windows = torch.stack([torch.full((1, 40, 40, 40), value) for value in values])
    cut = cut_out(windows, torch.Generator().manual_seed(3))
    assert torch.equal(cut, cut_out(windows, torch.Generator().manual_seed(3)))
    swapped = 0
    for own, result in zip(values, cut, strict=True):
        assert 0.3 < (result == own).float().mean() < 1
        rest = result[(result != own) & (result > 1)].unique()
        assert len(rest) <= 1 and set(rest.tolist()) <= set(values)
        swapped += len(rest)
    assert swapped > 0


def test_the_encoder_becomes_that_of_the_segmenter() -> None:
    torch.manual_seed(0)
    sizes = {"feature_size": 12, "depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24)}
    pretrained = SwinPretrainer(1, **sizes)
    segmenter = SwinUNETR(1, 2, **sizes)
    report = segmenter.load_encoder(pretrained.state_dict(), patch_merging="current")
    assert {name.split(".")[0] for name in report.ignored} == {"rotation_head", "contrastive_head", "conv"}
    own, theirs = segmenter.swinViT.state_dict(), pretrained.swinViT.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)
