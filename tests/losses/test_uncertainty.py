"""Losses weighed by learnt uncertainties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medvit.losses import UncertaintyWeightedLoss


def test_weights_begin_equal_and_settle_at_the_size_of_each_loss() -> None:
    loss = UncertaintyWeightedLoss([nn.L1Loss(), nn.MSELoss()])
    output, target = torch.full((4,), 3.0), torch.full((4,), 0.5)
    assert loss(output, target).item() == pytest.approx((2.5 + 6.25) / 2 + 2 * math.log(2))
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(400):
        optimiser.zero_grad()
        loss(output, target).backward()
        optimiser.step()
    # The best variance v of a loss L that does not change: L = 2 v^2 / (1 + v).
    best = [(value + math.sqrt(value**2 + 8 * value)) / 4 for value in (2.5, 6.25)]
    torch.testing.assert_close(loss.uncertainties.square(), torch.tensor(best), rtol=0.01, atol=0)


def test_the_network_learns_through_every_loss() -> None:
    output = torch.tensor([1.0, 2.0], requires_grad=True)
    UncertaintyWeightedLoss([nn.L1Loss(), nn.MSELoss()])(output, torch.zeros(2)).backward()
    torch.testing.assert_close(output.grad, torch.tensor([0.25 + 0.5, 0.25 + 1.0]))
