"""What a training costs: windows that cover a study, and measured steps."""

from __future__ import annotations

import pytest
import torch

from medvit.training.costs import measure, windows_of


@pytest.mark.parametrize(
    ("shape", "window", "count"),
    [
        ((96, 96, 96), (96, 96, 96), 1),
        ((40, 96), (96, 96), 1),  # smaller than the window
        ((97, 96), (96, 96), 2),
        ((144, 96), (96, 96), 2),  # 0 and 48
        ((145, 96), (96, 96), 3),
        ((192, 144, 100), (96, 96, 50), 3 * 2 * 3),
    ],
)
def test_windows_overlap_by_half(shape: tuple[int, ...], window: tuple[int, ...], count: int) -> None:
    assert windows_of(shape, window) == count


def test_a_step_is_measured_on_the_network_as_it_will_be() -> None:
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 2, "out_channels": 3, "kernel_size": 1}
    cost = measure(network, (8, 8, 8), 2, 2, torch.device("cpu"))
    # Six weights and three biases of 4 bytes: themselves, their average, the best, and two moments.
    assert cost.checkpoint == 5 * 4 * (2 * 3 + 3)
    assert cost.window > 0 and 0 < cost.step < 5
    assert cost.memory > 50e6  # Python and torch alone
