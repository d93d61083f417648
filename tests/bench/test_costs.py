"""Operations and memory: what is known from the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medvit.bench import costs
from medvit.networks import SwinUNETR


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.project(tokens).reshape(1, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)


def test_operations_are_two_for_each_product() -> None:
    convolution = nn.Conv3d(2, 5, 3, padding=1)
    assert costs.gflops(convolution, (1, 2, 6, 7, 8)) == pytest.approx(2 * 27 * 2 * 5 * 6 * 7 * 8 / 1e9)
    n = 20
    expected = 2 * n * 16 * 48 + 2 * (2 * 2 * n * n * 8)  # projection; scores and values of two heads of 8
    assert costs.gflops(Attention(), (1, n, 16)) == pytest.approx(expected / 1e9)
    assert all(p.requires_grad for p in convolution.parameters())


def test_fast_paths_of_inference_hide_nothing() -> None:
    network = SwinUNETR(1, 2, feature_size=12).eval()
    window = torch.zeros(1, 1, 64, 32, 32)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(window)
    assert counter.get_total_flops() < costs.gflops(network, tuple(window.shape)) * 1e9


def test_shapes_are_counted() -> None:
    network = nn.Conv3d(1, 1, 1)
    with costs.watched_shapes(network) as shapes:
        for depth in (4, 5, 4):
            network(torch.zeros(1, 1, depth, 4, 4))
    network(torch.zeros(1, 1, 9, 4, 4))
    assert shapes == {(1, 1, 4, 4, 4): 2, (1, 1, 5, 4, 4): 1}


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 3, bias=False)
    assert costs.parameters(nn.Sequential(layer, layer)) == 9


def test_peak_memory_grows_with_what_is_held() -> None:
    before = costs.peak_memory_mb()
    held = np.ones(20_000_000)
    after = costs.peak_memory_mb()
    assert before is not None and after is not None
    assert after >= before > 0
    assert after > held.nbytes / 1e6
