"""Dice and cross-entropy: MONAI's value, and a gradient that is really its derivative."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss

from medvit.losses import LateralDiceCELoss, SparseDiceCELoss, dice_ce
from medvit.networks import LateralSegmenter
from medvit.studies.labels import load_label_table


@pytest.mark.parametrize("dice_weight", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("include_background", [False, True])
def test_value_and_gradient_are_monais(include_background: bool, dice_weight: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, 3, 2, requires_grad=True)
    target = torch.randint(0, 5, (2, 1, 4, 3, 2))
    reference = DiceCELoss(
        include_background, softmax=True, to_onehot_y=True, batch=True, smooth_nr=1.0, smooth_dr=1.0,
        lambda_dice=dice_weight,
    )  # fmt: skip
    ours = SparseDiceCELoss(include_background, dice_weight)(logits, target)
    theirs = reference(logits, target)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(3 * ours, logits), torch.autograd.grad(3 * theirs, logits), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_sums_by_label_are_the_same_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dice_ce, "_BLOCK", 64)
    labels = torch.randint(0, 4, (1000,))  # class 4 has no voxel
    values = torch.rand(1000)
    for mine, other in zip(
        dice_ce._sums_in_blocks(labels, values, 5), dice_ce.sums_by_label(labels, values, 5), strict=True
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("paired", [True, False])
def test_the_lateral_loss_asks_the_device_nothing(paired: bool) -> None:
    """Meta tensors hold no values, so that any question after one fails."""
    table = load_label_table("brain")
    names = {s.unsided_name for s in table}
    target = torch.full((1, 1, 4, 4, 4), table.by_name["left thalamus" if paired else "brain-stem"].value)
    loss = LateralDiceCELoss("brain")
    logits = torch.randn(1, len(names) + 2, 4, 4, 4)
    side = F.softplus(logits[:, -1]).mean() if paired else torch.zeros(())
    expected = SparseDiceCELoss()(logits[:, :-1], loss.structure_of[target]) + side
    torch.testing.assert_close(loss(logits, target), expected)
    meta = logits.to("meta").requires_grad_()
    loss.to("meta")(meta, target.to("meta")).backward()
    assert meta.grad is not None and meta.grad.shape == logits.shape


def test_labels_must_fit_the_logits() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        SparseDiceCELoss()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4))


def test_sides_are_learnt_where_there_are_sides() -> None:
    table = load_label_table("brain")
    target = torch.tensor([table.by_name[n].value for n in ("left thalamus", "right thalamus", "brain-stem")])
    target = target.reshape(1, 1, 3)
    names = list(dict.fromkeys(s.unsided_name for s in table))
    channels = torch.full((1, len(names) + 2, 3), -20.0)
    for voxel, name in enumerate(("thalamus", "thalamus", "brain-stem")):
        channels[0, names.index(name) + 1, voxel] = 20.0
    loss = LateralDiceCELoss("brain")
    right_way, wrong_way = channels.clone(), channels.clone()
    right_way[0, -1] = torch.tensor([-20.0, 20.0, 20.0])
    wrong_way[0, -1] = torch.tensor([20.0, -20.0, 20.0])
    assert loss(right_way, target) < 1e-4
    assert loss(wrong_way, target) > 15
    middle = right_way.clone()
    middle[0, -1, 2] = -20.0
    assert loss(middle, target) == loss(right_way, target)


def test_the_segmenter_reads_the_channels_that_the_loss_trains() -> None:
    table = load_label_table("brain")
    names = list(dict.fromkeys(s.unsided_name for s in table))
    channels = torch.randn(2, len(names) + 2, 4, 4, 4)
    logits = LateralSegmenter(torch.nn.Identity(), "brain")(channels)
    assert logits.shape == (2, len(table) + 1, 4, 4, 4)
    structure = channels[:, :-1].softmax(1)
    probability = logits.softmax(1)
    side = channels[:, -1].sigmoid()
    for s in table:
        share = {"": 1, "left": 1 - side, "right": side}[s.side]
        expected = structure[:, names.index(s.unsided_name) + 1] * share
        torch.testing.assert_close(probability[:, s.value], expected)
    with pytest.raises(ValueError, match="19 needed"):
        LateralSegmenter(torch.nn.Identity(), "brain")(channels[:, 1:])
