"""The window that a network is trained on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from medvit.errors import MedvitError
from medvit.training.windows import (
    affordable_on,
    batch_for,
    check_window,
    refusal,
    smaller_window,
    training_bytes,
    window_for,
)

SEGFORMER: dict[str, Any] = {
    "_target_": "medvit.networks.SegFormer3D",
    "in_channels": 1,
    "out_channels": 2,
    "embed_dims": [8, 16, 24, 32],
    "num_heads": [1, 2, 3, 4],
    "depths": [1, 1, 1, 1],
}
SWIN: dict[str, Any] = {
    "_target_": "medvit.networks.SwinUNETR",
    "in_channels": 1,
    "out_channels": 2,
    "feature_size": 12,
}


def at_most(voxels: int):
    return lambda edges: math.prod(edges) <= voxels


def test_small_studies_are_seen_whole() -> None:
    assert window_for(SEGFORMER, (35, 50, 36), (64, 64, 64), at_most(64**3)) == (48, 64, 48)


def test_large_studies_get_what_can_be_afforded_and_the_network_takes() -> None:
    found = window_for(SWIN, (512, 512, 100), (96, 96, 96), at_most(96**3))
    assert math.prod(found) <= 96**3
    assert not any(edge % 32 for edge in found)
    assert not refusal(SWIN, found)
    assert found[0] == found[1] > found[2]  # of the shape of the studies


def test_a_network_that_refuses_says_why_and_what_to_change() -> None:
    assert refusal(SWIN, (64, 64, 64)) == ""
    assert refusal(SWIN, (50, 64, 64))
    with pytest.raises(MedvitError, match=r"50 x 64 x 64.*--patch-size"):
        check_window(SWIN, (50, 64, 64), (64, 64, 64), 2)
    check_window(SWIN, (64, 64, 32), (64, 64, 64), 2)


def test_memory_of_a_step() -> None:
    network = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    parameters = 4 * (10 * 20 + 20 + 20 * 5 + 5)
    kept = 4 * 7 * (10 + 20)  # the input of each layer; the rectifier keeps its output, the next one's input
    assert training_bytes(network, (7, 10)) == kept + 5 * parameters
    assert next(network.parameters()).device.type == "cpu"


def test_memory_of_a_network_that_asks_for_values_is_unknown() -> None:
    class Asks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    assert training_bytes(Asks(), (1, 2)) is None


def test_a_cpu_affords_as_many_voxels_as_the_base_had() -> None:
    affordable = affordable_on(torch.device("cpu"), SEGFORMER, (64, 64, 64), (2, 1))
    assert affordable((128, 64, 32))
    assert not affordable((128, 64, 64))


@pytest.mark.parametrize(
    ("window", "expected"),
    [((64, 64, 64), 2), ((32, 32, 32), 8), ((128, 128, 128), 2), ((64, 64), 32), ((512, 512), 8)],
)
def test_smaller_windows_come_in_larger_batches(window: tuple[int, ...], expected: int) -> None:
    assert batch_for(window) == expected


def test_the_longest_edge_is_shortened_first() -> None:
    assert smaller_window((96, 128, 64)) == (96, 96, 64)
    assert smaller_window((32, 32, 32)) == (32, 32, 32)
