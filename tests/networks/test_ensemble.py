"""The mean of the probabilities of several segmenters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvit.networks import Ensemble


def test_its_softmax_is_the_mean_of_the_members_softmax() -> None:
    torch.manual_seed(0)
    # Logits of another scale must not outweigh: the mean is that of the probabilities.
    members = [
        nn.Conv3d(1, 3, 1),
        nn.Sequential(nn.Conv3d(1, 3, 1), nn.Threshold(-1e9, 0.0)),
        nn.Conv3d(1, 3, 3, 1, 1),
    ]
    with torch.no_grad():
        members[2].weight.mul_(50)
    image = torch.randn(2, 1, 4, 5, 6)
    expected = torch.stack([member(image).softmax(1) for member in members]).mean(0)
    found = Ensemble(members)(image)
    assert torch.allclose(found.softmax(1), expected, atol=1e-6)
    assert not torch.allclose(
        torch.stack([m(image) for m in members]).mean(0).softmax(1), expected, atol=1e-2
    )


def test_logits_that_are_certain_stay_finite() -> None:
    member = nn.Conv3d(1, 2, 1, bias=False)
    with torch.no_grad():
        member.weight.copy_(torch.tensor([1e3, -1e3]).reshape(2, 1, 1, 1, 1))
    assert Ensemble([member, member])(torch.ones(1, 1, 2, 2, 2)).isfinite().all()


def test_an_ensemble_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs members"):
        Ensemble([])
