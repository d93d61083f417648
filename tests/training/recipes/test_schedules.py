"""Published learning rates at epochs where they are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from medvit.training.recipes.schedules import poly_by_epoch, warmup_cosine, warmup_restarts


def optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(schedule: LambdaLR, iterations: int) -> list[float]:
    """The rate of each iteration, of a handler that steps after every one."""
    found = []
    for _ in range(iterations):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_poly_decays_from_epoch_to_epoch() -> None:
    found = rates(poly_by_epoch(optimizer(2.0), epochs=4, epoch_length=2, power=2.0), 10)
    assert found == pytest.approx([2.0, 2.0, 1.125, 1.125, 0.5, 0.5, 0.125, 0.125, 0.0, 0.0])


def test_warm_up_begins_at_zero_and_a_half_cosine_follows() -> None:
    found = rates(warmup_cosine(optimizer(1.0), warmup=3, epochs=7, epoch_length=1), 9)
    half = math.sqrt(0.5) / 2
    expected = [0.0, 0.5, 1.0, 1.0, 0.5 + half, 0.5, 0.5 - half, 0.0, 0.0]
    assert found == pytest.approx(expected)


def test_restarts_fall_to_the_floor_and_start_over() -> None:
    found = rates(warmup_restarts(optimizer(1.0), warmup=2, period=2, floor=0.2, epoch_length=1), 7)
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.6, 1.0, 0.6, 1.0])
