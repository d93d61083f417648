"""CUDA graphs: the launches of a network, recorded once for windows of a shape and replayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from medvit.inference.execution import Network

Record = Callable[[Network, Tensor], Network]

# Windows of a shape that a network answers before its launches are recorded.
_WARM_UP = 2


def record_launches(network: Network, windows: Tensor) -> Network:
    """`network` as a CUDA graph for windows of this shape; what it gives is valid until the next call."""
    held = windows.clone()
    aside = torch.cuda.Stream(windows.device)
    aside.wait_stream(torch.cuda.current_stream(windows.device))
    with torch.cuda.stream(aside):
        network(held)
    torch.cuda.current_stream(windows.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on using the device, such as one that reads the next study.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        logits = network(held)

    def replay(windows: Tensor) -> Tensor:
        held.copy_(windows)
        graph.replay()
        return logits

    return replay


class Replays:
    """Recorded launches of one network, for each shape of windows, made after a warm-up.

    The first replay is compared with a plain call. Where it differs, or nothing can be recorded, the network
    is called as usual. The network is not held, so that it can be freed.

    Parameters
    ----------
    record
        Records a network for one shape of windows.
    """

    def __init__(self, record: Record = record_launches) -> None:
        self.record = record
        self.seen: Counter[Any] = Counter()
        self.recorded: dict[Any, Network | None] = {}
        self.notes: list[str] = []

    def __call__(self, network: nn.Module, windows: Tensor) -> Tensor:
        """Logits of the windows."""
        # A graph reads the weights where they were: other memory means another recording.
        memory = tuple(p.data_ptr() for p in network.parameters())
        key = (windows.shape, windows.stride(), torch.is_autocast_enabled(windows.device.type), memory)
        if self.seen[key] < _WARM_UP:
            self.seen[key] += 1
            return first_level(network(windows))
        if key not in self.recorded:
            self.recorded[key] = self._record(network, windows)
        replay = self.recorded[key]
        return first_level(network(windows)) if replay is None else replay(windows).clone()

    def _record(self, network: nn.Module, windows: Tensor) -> Network | None:
        try:
            replay = self.record(lambda held: first_level(network(held)), windows)
            torch.testing.assert_close(replay(windows), first_level(network(windows)), rtol=1e-2, atol=1e-3)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            self.notes.append(f"launches could not be recorded, each is made anew: {reason}")
            return None
        return replay


def first_level(logits: Any) -> Any:
    """The full resolution of a network with deep supervision, which comes first; else what it gives."""
    return logits[0] if isinstance(logits, list | tuple) else logits


# Recordings outlive a study, as networks do.
_REPLAYS: WeakKeyDictionary[nn.Module, Replays] = WeakKeyDictionary()


def replayed(network: Network, notes: list[str]) -> Network:
    """`network` with its launches recorded, where it is a module; `notes` takes what could not be done."""
    if not isinstance(network, nn.Module):
        return network
    replays = _REPLAYS.setdefault(network, Replays())
    notes += [note for note in replays.notes if note not in notes]
    return partial(replays, network)
