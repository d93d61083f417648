"""The stream asks nothing of the device on its way, and batches windows evenly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks._measure import Launches
from medvit.inference import Execution, StreamingWindowInferer
from medvit.inference.execution import DEVICE_BLOCK_BYTES
from medvit.inference.stream import even_batch
from tests.inference.cases import GRIDS, study


def cheap(windows: Tensor) -> Tensor:
    """Seven classes in one operator."""
    return windows * torch.linspace(-1, 1, 7).reshape(1, -1, 1, 1, 1)


@pytest.mark.parametrize("target", [None, "left_handed"])
def test_reads_nothing_back_and_launches_few_operators(target: str | None) -> None:
    image = study(GRIDS["axial"])
    execution = Execution(block_bytes=DEVICE_BLOCK_BYTES)
    inferer = StreamingWindowInferer((16, 16, 16), 0.5, sw_batch_size=4, execution=execution)
    with Launches() as launches:
        inferer.segment(image, cheap, GRIDS[target] if target else None)
    windows = inferer.report.windows
    assert windows > 60
    assert launches.reads <= 2
    # Two additions a window, three operators a batch, and what a layer needs.
    assert launches.operators < 5 * windows


def test_skipped_windows_are_read_back_once_a_layer() -> None:
    image = torch.cat([torch.zeros(1, 70, 44, 36), study(GRIDS["axial"]).as_tensor()], dim=1)
    inferer = StreamingWindowInferer((16, 16, 16), skip="constant")
    with Launches() as launches:
        inferer.segment(image, cheap)
    assert inferer.report.skipped > 0
    assert launches.reads <= 6 * len(inferer.plan((110, 44, 36)).layers)


@pytest.mark.parametrize(
    ("windows", "most", "batch"), [(15, 8, 5), (15, 4, 3), (12, 8, 6), (13, 8, 8), (7, 8, 7), (4, 0, 1)]
)
def test_batches_of_a_layer_are_even_where_that_costs_little(windows: int, most: int, batch: int) -> None:
    assert even_batch(windows, most) == batch
