"""From windows to logits: flips, ensembles, mixed precision, and what to do when memory runs out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medvit.studies.labels import load_label_table

Network = Callable[..., Any]
SkipRule = Callable[[Tensor], bool]


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
        order = list(range(logits.shape[1]))
        for left, right in self.lateral_pairs:
            order[left], order[right] = right, left
        return logits[:, order]


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
    """

    device: str | torch.device | None = None
    amp: Literal["bf16", "fp16"] | None = None
    compile: bool | str | Callable[..., Any] = False
    channels_last: bool = False
    threads: int | None = None

    def device_for(self, networks: Sequence[Network]) -> torch.device:
        """The device asked for, or else that of the first parameter, or else the CPU."""
        if self.device is not None:
            return torch.device(self.device)
        modules = nn.ModuleList(n for n in networks if isinstance(n, nn.Module))
        return next((p.device for p in modules.parameters()), torch.device("cpu"))

    @contextmanager
    def running(self, networks: Sequence[Network]) -> Iterator[None]:
        """No gradients, networks in evaluation mode, threads and autocast as asked; all undone after."""
        modules = [n for n in networks if isinstance(n, nn.Module) and n.training]
        threads = torch.get_num_threads()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.amp is not None:
                dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.amp]
                stack.enter_context(torch.autocast(self.device_for(networks).type, dtype))
            try:
                torch.set_num_threads(self.threads or threads)
                for module in modules:
                    module.eval()
                yield
            finally:
                torch.set_num_threads(threads)
                for module in modules:
                    module.train()


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

    def __call__(self, windows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Windows (B, C, *roi_size) to logits (B, classes [+ 1], *roi_size)."""
        started = time.perf_counter()
        windows = self._to_device(windows)
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

    def _to_device(self, windows: Tensor) -> Tensor:
        if self.device.type == "cuda" and windows.device.type == "cpu":
            windows = windows.pin_memory()
        windows = windows.to(self.device, non_blocking=True)
        if self.execution.channels_last:
            windows = windows.contiguous(
                memory_format=torch.channels_last_3d if windows.ndim == 5 else torch.channels_last
            )
        return windows

    def _member(
        self, network: Network, flip: tuple[int, ...], windows: Tensor, args: tuple, kwargs: dict
    ) -> Tensor:
        logits = network(windows.flip([a + 2 for a in flip]) if flip else windows, *args, **kwargs)
        if isinstance(logits, list | tuple):
            # Deep supervision: the full resolution comes first.
            logits = logits[0]
        sound = isinstance(logits, Tensor) and logits.shape[2:] == windows.shape[2:]
        if not sound or len(logits) != len(windows):
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the network must turn windows {tuple(windows.shape)} into logits of their size, not {what}"
            )
        return self.flips.undo(logits, flip) if flip else logits
