"""CUDA graphs: the launches of a network, recorded once for windows of a shape and replayed."""

from __future__ import annotations

import itertools
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from medvit.inference.execution import Network

Record = Callable[[Network, Tensor], Network]

_log = logging.getLogger(__name__)

# Windows of one shape that a network processes before its launches are recorded.
_WARM_UP = 2
# Recordings held at once. Each holds the memory of a forward pass, and where a window takes in a whole axis
# every study has a shape of its own.
_MOST_SHAPES = 4


def record_launches(network: Network, windows: Tensor) -> Network:
    """`network` as a CUDA graph for windows of this shape; its output is valid until the next call."""
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

    A recording is used once it has given what the network gives, for the windows it was made of and for
    others. Where it differs, or nothing can be recorded, the network is called as usual; so is one that has
    hooks, which a replay would not call. The network is not held, so that it can be freed.

    Parameters
    ----------
    record
        Records a network for one shape of windows.
    """

    def __init__(self, record: Record = record_launches) -> None:
        self.record = record
        self.seen: Counter[Any] = Counter()
        self.recorded: OrderedDict[Any, Network | None] = OrderedDict()
        #: Why launches could not be recorded, in sentences.
        self.notes: list[str] = []

    def __call__(self, network: nn.Module, windows: Tensor) -> Tensor:
        """Logits of the windows."""
        if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
            return first_level(network(windows))
        # A graph reads the weights where they were: other memory means another recording.
        held = itertools.chain(network.parameters(), network.buffers())
        memory = tuple(tensor.data_ptr() for tensor in held)
        half = torch.get_autocast_dtype(windows.device.type) if _is_autocast(windows) else None
        key = (memory, half, windows.shape, windows.stride())
        if self.seen[key] < _WARM_UP:
            self.seen[key] += 1
            return first_level(network(windows))
        if key not in self.recorded:
            self._make_room(memory)
            self.recorded[key] = self._record(network, windows)
        self.recorded.move_to_end(key)
        replay = self.recorded[key]
        return first_level(network(windows)) if replay is None else replay(windows).clone()

    def _make_room(self, memory: tuple[int, ...]) -> None:
        for key in [key for key in self.recorded if key[0] != memory]:
            del self.recorded[key]
        while len(self.recorded) >= _MOST_SHAPES:
            self.recorded.popitem(last=False)

    def _record(self, network: nn.Module, windows: Tensor) -> Network | None:
        try:
            replay = self.record(lambda held: first_level(network(held)), windows)
            for asked in (windows, windows.flip(-1)):
                expected = first_level(network(asked))
                torch.testing.assert_close(replay(asked), expected, rtol=1e-2, atol=1e-3, equal_nan=True)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            self.notes.append(f"launches could not be recorded, each is made anew: {reason}")
            _log.warning(self.notes[-1])
            return None
        return replay


def _is_autocast(windows: Tensor) -> bool:
    device = windows.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def first_level(logits: Any) -> Any:
    """The first output, of full resolution, of a network with deep supervision, or the only one."""
    return logits[0] if isinstance(logits, list | tuple) else logits


# Recordings outlive a study, as networks do.
_REPLAYS: WeakKeyDictionary[nn.Module, Replays] = WeakKeyDictionary()


def replayed(network: Network, notes: list[str]) -> Network:
    """`network` with its launches recorded if it is a module; `notes` receives what could not be done."""
    if not isinstance(network, nn.Module):
        return network
    replays = _REPLAYS.setdefault(network, Replays())

    def ask(windows: Tensor) -> Tensor:
        logits = replays(network, windows)
        notes.extend(note for note in replays.notes if note not in notes)
        return logits

    return ask


def release_recordings(network: nn.Module) -> None:
    """Free the memory of a network's recordings at the end of a run."""
    if _REPLAYS.pop(network, None) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
