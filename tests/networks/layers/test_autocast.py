"""Recurrences stay in float32 under autocast."""

from __future__ import annotations

import torch
from torch import nn

from medvit.networks.layers.autocast import at_least_float32, without_autocast


def test_autocast_is_off_inside_and_on_again_after() -> None:
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with without_autocast(x):
            assert layer(x).dtype == torch.float32
        assert layer(x).dtype == torch.bfloat16
    with without_autocast(x):
        assert layer(x).dtype == torch.float32


def test_half_becomes_single_and_double_stays() -> None:
    for given, expected in (
        (torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)
    ):  # fmt: skip
        assert at_least_float32(torch.ones(1, dtype=given)).dtype == expected
    single = torch.ones(1)
    assert at_least_float32(single) is single
