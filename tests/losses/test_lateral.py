"""Structures and sides in channels of their own."""

from __future__ import annotations

import pytest
import torch

from medvit.losses import LateralDiceCELoss, SparseDiceCELoss
from medvit.networks import LateralSegmenter
from medvit.studies.labels import load_label_table

TABLE = load_label_table("brain")
LEFT, RIGHT = (next(s for s in TABLE if s.name == f"{side} hippocampus").value for side in ("left", "right"))
UNSIDED = next(s for s in TABLE if not s.side).value


def channels_of(labels: torch.Tensor, certainty: float = 30.0) -> torch.Tensor:
    """Channels of a network that is certain of `labels` (B, 1, ...)."""
    loss = LateralDiceCELoss("brain")
    structure = loss.structure_of[labels.long()]
    count = int(loss.structure_of.max()) + 1
    one_hot = torch.zeros(len(labels), count, *labels.shape[2:]).scatter_(1, structure, 1.0)
    side = 2 * loss.side_of[labels.long()].float() - 1
    return certainty * torch.cat([2 * one_hot - 1, side], 1)


def image_of(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(1, 1, -1, 1, 1).expand(1, 1, len(values), 2, 2)


def test_a_perfect_answer_costs_nothing_and_the_segmenter_reads_it_back() -> None:
    labels = image_of(0, LEFT, RIGHT, UNSIDED)
    channels = channels_of(labels)
    assert float(LateralDiceCELoss("brain")(channels, labels)) == pytest.approx(0, abs=1e-4)
    segmenter = LateralSegmenter(torch.nn.Identity(), "brain")
    assert torch.equal(segmenter(channels).argmax(1, keepdim=True), labels.long())


def test_the_wrong_side_costs_its_cross_entropy_alone() -> None:
    loss = LateralDiceCELoss("brain")
    channels = channels_of(image_of(0, LEFT, LEFT, UNSIDED), certainty=5.0)
    right = loss(channels, image_of(0, LEFT, LEFT, UNSIDED))
    half = loss(channels, image_of(0, LEFT, RIGHT, UNSIDED))
    everything = loss(channels, image_of(0, RIGHT, RIGHT, UNSIDED))
    # softplus(5) - softplus(-5) = 5 for each voxel on the wrong side, in the mean over the paired ones.
    assert float(half - right) == pytest.approx(2.5, abs=1e-4)
    assert float(everything - right) == pytest.approx(5.0, abs=1e-4)


def test_without_paired_structures_the_side_is_not_asked() -> None:
    labels = image_of(0, UNSIDED)
    channels = channels_of(labels, certainty=2.0)
    channels[:, -1] = 100
    loss = LateralDiceCELoss("brain", dice_weight=0.5)
    expected = SparseDiceCELoss(dice_weight=0.5)(channels[:, :-1], loss.structure_of[labels.long()])
    assert float(loss(channels, labels)) == pytest.approx(float(expected), rel=1e-6)


def test_every_channel_learns() -> None:
    labels = image_of(0, LEFT, RIGHT, UNSIDED)
    channels = torch.zeros_like(channels_of(labels)).requires_grad_()
    LateralDiceCELoss("brain")(channels, labels).backward()
    assert bool((channels.grad.abs().amax((0, 2, 3, 4)) > 0).all())
