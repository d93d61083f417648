"""Copies of results from a device to arrays on the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Arrival(Protocol):
    """An event for the arrival of a copy, such as a CUDA event."""

    def synchronize(self) -> None:
        """Wait until the copy has arrived."""


# Begins a copy to the host, and returns the copy with the event that tells when it has arrived.
Transfer = Callable[[Tensor], tuple[Tensor, Arrival]]
# Puts the array of a copy in its place.
Store = Callable[[np.ndarray], None]

# Copies under way: while the host stores one, the device sends the next.
_UNDER_WAY = 2


class HostCopies:
    """Stores the results of a device in arrays on the host, in the order in which they arrive.

    From a GPU they go through page-locked memory on a separate stream, so that the device continues
    meanwhile; from a CPU they are stored at once.

    Parameters
    ----------
    device
        Device that the results come from.
    transfer
        How they are copied; ``None`` for the way that suits the device.
    """

    def __init__(self, device: torch.device, transfer: Transfer | None = None) -> None:
        self._device = device.type
        self._transfer = transfer or (pinned_transfer(device) if device.type == "cuda" else None)
        self._pending: deque[tuple[Tensor, Arrival, Store]] = deque()

    def send(self, values: Tensor, store: Store) -> None:
        """Let `store` put `values` into their place, now or by `finish` at the latest."""
        if self._transfer is None or values.device.type != self._device:
            store(values.cpu().numpy())
            return
        while len(self._pending) >= _UNDER_WAY:
            self._land()
        self._pending.append((*self._transfer(values), store))

    def finish(self) -> None:
        """Wait until everything is in its place."""
        while self._pending:
            self._land()

    def _land(self) -> None:
        copy, arrival, store = self._pending.popleft()
        arrival.synchronize()
        store(copy.numpy())


def pinned_transfer(device: torch.device) -> Transfer:
    """Copies through page-locked memory, concurrent with the work of `device`."""
    aside = torch.cuda.Stream(device)

    def transfer(values: Tensor) -> tuple[Tensor, Arrival]:
        # A copy first: values may be a view of memory that the next windows are added to.
        values = values.clone(memory_format=torch.contiguous_format)
        # torch keeps page-locked memory that was freed for the next tensor of its size.
        copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            copy.copy_(values, non_blocking=True)
        values.record_stream(aside)
        return copy, aside.record_event()

    return transfer
