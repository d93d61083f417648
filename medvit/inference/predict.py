"""From windows to logits: devices and precision, flips, ensembles, and launches recorded once."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from medvit.studies.labels import load_label_table

Network = Callable[..., Any]
SkipRule = Callable[[Tensor], bool | Tensor]
Record = Callable[[Network, Tensor], Network]

#: Bytes of logits that are interpolated and reduced at once on a CPU: one class stays in the cache.
CPU_BLOCK_BYTES = 1 << 19
#: The same on any other device: large enough that launching costs little, small beside one window's maps.
DEVICE_BLOCK_BYTES = 1 << 26

# Windows of a shape that a network answers before its launches are recorded.
_WARM_UP = 2
# Windows at once, if memory is no bound: beyond this a GPU gains nothing.
_MOST_WINDOWS = 8


@dataclass
class InferenceReport:
    """What one inference did.

    Parameters
    ----------
    windows, skipped
        Windows of the image, and how many of them were taken for background unseen.
    forward_passes
        Windows that went through a network, counted once a flip and once a network.
    axis
        The streaming axis.
    target
        How results went to their grid: ``"same voxels"``, ``"axis-aligned"`` or ``"oblique"``.
    device
        Where the networks ran.
    region
        First voxel and the one past the last, along each axis, of the part of the image that was looked at;
        empty for the whole.
    seconds, network_seconds
        Wall time of the whole, and of the networks' forward passes (on a GPU: of their launch).
    fallbacks
        What was done when memory ran out, in sentences.
    """

    windows: int = 0
    skipped: int = 0
    forward_passes: int = 0
    axis: int = 0
    target: str = "same voxels"
    device: str = "cpu"
    region: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0
    network_seconds: float = 0.0
    fallbacks: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Flips:
    """Test-time flips: predictions of mirrored windows, mirrored back and averaged.

    Parameters
    ----------
    axes
        Spatial axes to flip along, alone and together: n axes give 2^n predictions.
    lateral_axis
        The axis that runs from the patient's right to left (0 in RAS order).
    lateral_pairs
        Pairs of classes that are each other's mirror image, such as left and right hippocampus: they swap
        when the lateral axis is flipped.
    """

    axes: Sequence[int] = ()
    lateral_axis: int = 0
    lateral_pairs: Sequence[tuple[int, int]] = ()

    def combinations(self) -> list[tuple[int, ...]]:
        """Sets of axes to flip, the empty one first."""
        counts = range(len(self.axes) + 1)
        return [flip for n in counts for flip in itertools.combinations(sorted(set(self.axes)), n)]

    def undo(self, logits: Tensor, flip: tuple[int, ...]) -> Tensor:
        """Mirror logits (B, C, ...) of a flipped window back."""
        logits = logits.flip([a + 2 for a in flip])
        if self.lateral_axis not in flip or not self.lateral_pairs:
            return logits
        pairs = tuple((left, right) for left, right in self.lateral_pairs)
        return logits.index_select(1, _mirrored_classes(logits.shape[1], pairs, logits.device))


@lru_cache
def _mirrored_classes(classes: int, pairs: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    order = list(range(classes))
    for left, right in pairs:
        order[left], order[right] = right, left
    return torch.tensor(order, device=device)


def lateral_flips(table: str, enabled: bool = True) -> Flips:
    """Test-time flips left to right of a RAS image whose classes are the values of a label table.

    Parameters
    ----------
    table
        Name of the label table.
    enabled
        Whether to flip at all.
    """
    pairs = [(left.value, right.value) for left, right in load_label_table(table).pairs()]
    return Flips(axes=(0,) if enabled else (), lateral_pairs=pairs)


@dataclass(frozen=True)
class Execution:
    """Where and how networks run.

    Parameters
    ----------
    device
        Device of the networks; ``None`` for where their parameters are.
    amp
        Precision of autocast (``"bf16"``, or on a GPU ``"fp16"``); ``None`` for float32. Logits are blended
        in float32 all the same.
    compile
        Whether networks are compiled in place by `torch.compile`, once each; or the backend it is to use.
    channels_last
        Whether windows are given in channels-last memory.
    threads
        CPU threads during the inference; ``None`` leaves the setting alone.
    tf32
        Whether a GPU may round the factors of float32 products to 10 bits; ``None`` leaves PyTorch's
        setting alone.
    graphs
        Whether a GPU records the launches of a network as a CUDA graph at the first windows of a shape, and
        replays them from then on. A network that cannot be recorded, or whose replay answers otherwise, is
        called as usual, and the report says so.
    block_bytes
        Memory for logits that are interpolated and reduced at once. All classes of a block are taken
        together where that leaves blocks of a sensible size, else one after the other. ``None`` for what
        suits the device.
    """

    device: str | torch.device | None = None
    amp: Literal["bf16", "fp16"] | None = None
    compile: bool | str | Callable[..., Any] = False
    channels_last: bool = False
    threads: int | None = None
    tf32: bool | None = None
    graphs: bool = True
    block_bytes: int | None = None

    def block(self, channels: int, device: torch.device) -> tuple[int, bool]:
        """Voxels of a block, and whether all channels of it are taken at once."""
        values = (self.block_bytes or (CPU_BLOCK_BYTES if device.type == "cpu" else DEVICE_BLOCK_BYTES)) // 4
        whole = channels * (CPU_BLOCK_BYTES // 4) <= values
        return values // channels if whole else values, whole

    def device_for(self, networks: Sequence[Network]) -> torch.device:
        """The device asked for, or else that of the first parameter or buffer, or else the CPU."""
        if self.device is not None:
            return torch.device(self.device)
        modules = nn.ModuleList(n for n in networks if isinstance(n, nn.Module))
        held = itertools.chain(modules.parameters(), modules.buffers())
        return next((tensor.device for tensor in held), torch.device("cpu"))

    @contextmanager
    def running(self, networks: Sequence[Network]) -> Iterator[None]:
        """No gradients, networks in evaluation mode, threads and TF32 as asked; all undone after."""
        modules = [n for n in networks if isinstance(n, nn.Module) and n.training]
        threads = torch.get_num_threads()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.tf32 is not None:
                stack.enter_context(_tf32(self.tf32))
            try:
                torch.set_num_threads(self.threads or threads)
                for module in modules:
                    module.eval()
                yield
            finally:
                torch.set_num_threads(threads)
                for module in modules:
                    module.train()

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Around the networks alone: what is done with their logits stays in float32."""
        if self.amp is None:
            return nullcontext()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.amp]
        # A cache of weights in half precision must not outlive the graph that was recorded with it.
        return torch.autocast(device.type, dtype, cache_enabled=not (self.graphs and device.type == "cuda"))


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


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


class Predictor:
    """Mean logits of all networks and flips for a batch of windows.

    Parameters
    ----------
    networks
        The members of the ensemble, each (B, C, *roi_size) to (B, classes, *roi_size).
    flips, execution
        How they are asked.
    report
        Where passes and time are counted.
    disagreement
        Whether a channel is added: the share of members and flips whose class is not that of the mean.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        flips: Flips,
        execution: Execution,
        report: InferenceReport,
        disagreement: bool = False,
    ) -> None:
        for network in networks:
            if execution.compile and isinstance(network, nn.Module) and network._compiled_call_impl is None:
                network.compile(backend="inductor" if execution.compile is True else execution.compile)
        self.networks, self.flips, self.execution = networks, flips, execution
        self.report, self.disagreement = report, disagreement
        self.device = execution.device_for(networks)
        self._idle = self._allocated()

    def __call__(self, windows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Windows (B, C, *roi_size) to logits (B, classes [+ 1], *roi_size)."""
        started = time.perf_counter()
        windows = self.to_device(windows)
        if self.execution.channels_last:
            windows = windows.contiguous(
                memory_format=torch.channels_last_3d if windows.ndim == 5 else torch.channels_last
            )
        asked = itertools.product(self.networks, self.flips.combinations())
        members = (self._member(network, flip, windows, args, kwargs) for network, flip in asked)
        mean, voters = next(members), []
        count = len(self.networks) * len(self.flips.combinations())
        if self.disagreement:
            voters.append(mean.argmax(1))
        for logits in members:
            mean = mean + logits
            if self.disagreement:
                voters.append(logits.argmax(1))
        mean = mean if count == 1 else mean / count
        if self.disagreement:
            winner = mean.argmax(1)
            share = torch.stack([(vote != winner).float() for vote in voters]).mean(0)
            mean = torch.cat([mean, share[:, None].to(mean.dtype)], dim=1)
        self.report.forward_passes += count * len(windows)
        self.report.network_seconds += time.perf_counter() - started
        return mean

    def to_device(self, image: Tensor) -> Tensor:
        """`image` where the networks are; the host does not wait for the copy."""
        if self.device.type == "cuda" and image.device.type == "cpu":
            image = image.pin_memory()
        return image.to(self.device, non_blocking=True)

    def windows_that_fit(self) -> int:
        """How many windows at once half of the free memory holds, after one has been seen; 1 on a CPU."""
        if self.device.type != "cuda":
            return 1
        # Memory that was needed before this study counts as this study's: rather too few windows than many.
        need = max(torch.cuda.max_memory_allocated(self.device) - self._idle, 1)
        free, _ = torch.cuda.mem_get_info(self.device)
        free += torch.cuda.memory_reserved(self.device) - self._allocated()
        return max(min(free // 2 // need, _MOST_WINDOWS), 1)

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def _member(
        self, network: Network, flip: tuple[int, ...], windows: Tensor, args: tuple, kwargs: dict
    ) -> Tensor:
        ask = network if args or kwargs else self._replayed(network)
        with self.execution.autocast(self.device):
            asked = windows.flip([a + 2 for a in flip]) if flip else windows
            logits = first_level(ask(asked, *args, **kwargs))
        sound = isinstance(logits, Tensor) and logits.shape[2:] == windows.shape[2:]
        if not sound or len(logits) != len(windows):
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the network must turn windows {tuple(windows.shape)} into logits of their size, not {what}"
            )
        return self.flips.undo(logits, flip) if flip else logits

    def _replayed(self, network: Network) -> Network:
        wanted = self.execution.graphs and not self.execution.compile and self.device.type == "cuda"
        if not wanted or not isinstance(network, nn.Module):
            return network
        replays = _REPLAYS.setdefault(network, Replays())
        self.report.fallbacks += [note for note in replays.notes if note not in self.report.fallbacks]
        return partial(replays, network)
