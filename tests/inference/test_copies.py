"""Results reach the host in their order, while the device goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medvit.inference import RestorationInferer, StreamingWindowInferer, copies
from medvit.inference.copies import HostCopies, pinned_transfer
from tests.inference.cases import GRIDS, study


class Late:
    """A transfer whose copies are only there once they are waited for."""

    def __init__(self) -> None:
        self.begun = self.arrived = self.most = 0

    def __call__(self, values: Tensor) -> tuple[Tensor, Any]:
        self.begun += 1
        self.most = max(self.most, self.begun - self.arrived)
        kept, copy = values.clone(), torch.full_like(values, 99, memory_format=torch.contiguous_format)

        def synchronize() -> None:
            copy.copy_(kept)
            self.arrived += 1

        return copy, SimpleNamespace(synchronize=synchronize)


def test_copies_are_stored_in_their_order_and_two_are_under_way() -> None:
    late, stored = Late(), []
    host = HostCopies(torch.device("cpu"), late)
    for n in range(5):
        host.send(torch.full((2,), n), stored.append)
        assert len(stored) == max(n - 1, 0)
    host.finish()
    assert [int(array[0]) for array in stored] == list(range(5))
    assert late.most == 2


@pytest.mark.parametrize("target", [None, "left_handed", "oblique"])
def test_late_copies_give_the_same_answer(target: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    image, grid = study(GRIDS["axial"]), GRIDS[target] if target else None

    def network(windows: Tensor) -> Tensor:
        return windows * torch.linspace(-1, 1, 5).reshape(1, -1, 1, 1, 1)

    shape = grid.shape if grid else tuple(image.shape[1:])
    labels, restored = np.zeros(shape, np.uint8), np.zeros((5, *shape), np.float32)
    expected = StreamingWindowInferer((16, 16, 16)).segment(image, network, grid)
    image_expected = RestorationInferer((16, 16, 16)).restore(image, network, grid)
    late = Late()
    monkeypatch.setattr(copies.HostCopies.__init__, "__defaults__", (late,))
    StreamingWindowInferer((16, 16, 16)).segment(image, network, grid, out=labels)
    RestorationInferer((16, 16, 16)).restore(image, network, grid, out=restored)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(restored, image_expected)
    assert late.begun == late.arrived > 4


def test_a_gpu_copies_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what is asked of CUDA, by stand-ins: wait for the values, copy without waiting, mark."""
    events: list[str] = []

    class Entered:
        def __init__(self, stream: Any) -> None:
            events.append(f"enter {stream.name}")

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            events.append("leave")

    aside = SimpleNamespace(
        name="aside",
        wait_stream=lambda other: events.append(f"wait for {other}"),
        record_event=lambda: events.append("mark") or "event",
    )
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: aside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "main")
    monkeypatch.setattr(torch.cuda, "stream", Entered)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda values, stream: events.append("keep"))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **how: empty(*size, **how))
    sums = torch.arange(12.0).reshape(3, 4)
    copy, event = pinned_transfer(torch.device("cpu"))(sums.T)
    sums.zero_()
    assert torch.equal(copy, torch.arange(12.0).reshape(3, 4).T) and event == "event"
    assert events == ["wait for main", "enter aside", "leave", "keep", "mark"]
