"""From windows to logits: flips, ensembles, and how many windows fit into memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from medvit.errors import MissingExtraError
from medvit.inference.backends import compiled_in
from medvit.inference.conversion import ConversionError, engine
from medvit.inference.execution import Execution, Network
from medvit.inference.graphs import first_level, replayed
from medvit.inference.terms import Terms
from medvit.networks import LateralSegmenter
from medvit.studies.labels import load_label_table

SkipRule = Callable[[Tensor], bool | Tensor]

# Largest batch of windows: beyond this a GPU gains nothing, however much memory is free.
_MOST_WINDOWS = 8


@dataclass
class InferenceReport:
    """Facts about one inference.

    Parameters
    ----------
    windows, skipped
        Windows of the image, and how many of them were labelled background without a network.
    forward_passes
        Windows that went through a network, counted once for each flip and each network.
    axis
        The streaming axis.
    target
        How results reached their grid: ``"same voxels"``, ``"axis-aligned"`` or ``"oblique"``.
    device, backend
        Where the networks ran, and what ran them.
    region
        First voxel and the one past the last, along each axis, of the part of the image that was segmented;
        empty for the whole.
    seconds, network_seconds
        Wall time of the whole, and of the networks' forward passes (on a GPU: of their launch).
    fallbacks
        Remedies when memory ran out or the backend could not run a network, in sentences.
    """

    windows: int = 0
    skipped: int = 0
    forward_passes: int = 0
    axis: int = 0
    target: str = "same voxels"
    device: str = "cpu"
    backend: str = "torch"
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


class Predictor:
    """Mean logits of all networks and flips for a batch of windows.

    Parameters
    ----------
    networks
        The members of the ensemble, each (B, C, *roi_size) to (B, classes, *roi_size).
    flips, execution
        How the networks are run.
    report
        Report in which passes and time are counted.
    disagreement
        Whether a channel is added: the share of members and flips whose class is not that of the mean.
    in_terms
        Whether the terms of logits may be given in their place, where networks offer them; `terms` then says
        which make the logits of each class.

    Raises
    ------
    MedvitError
        If the device does not support the requested precision.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        flips: Flips,
        execution: Execution,
        report: InferenceReport,
        disagreement: bool = False,
        in_terms: bool = False,
    ) -> None:
        for network in networks:
            if execution.compile and isinstance(network, nn.Module) and network._compiled_call_impl is None:
                network.compile(backend="inductor" if execution.compile is True else execution.compile)
        self.networks, self.flips, self.execution = networks, flips, execution
        self.report, self.disagreement = report, disagreement
        self.device = execution.device_for(networks)
        execution.check(self.device)
        self._awaiting_engine = execution.backend != "torch"
        compiled = next(filter(None, map(compiled_in, networks)), None)
        report.backend = compiled.backend if compiled else "torch"
        self._records = execution.records(self.device)
        self._idle = self._allocated()
        # What is made for the plain call of a network, or asks it for classes, needs logits.
        plain = disagreement or self._records or bool(execution.compile) or len(flips.combinations()) > 1
        if self._awaiting_engine:
            plain = plain or not all(isinstance(network, LateralSegmenter) for network in networks)
        self.terms = Terms.shared(networks) if in_terms and not plain else None

    def __call__(self, windows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Windows (B, C, *roi_size) to logits (B, classes [+ 1], *roi_size), or to their terms."""
        started = time.perf_counter()
        windows = self.to_device(windows)
        if self._awaiting_engine:
            self._take_engine(windows.shape[1:], alone=not (args or kwargs))
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

    def _take_engine(self, shape: Sequence[int], alone: bool) -> None:
        """Replace the networks by what the backend runs for windows (C, *roi_size)."""
        self._awaiting_engine = False
        wanted = self.execution
        try:
            if not alone:
                raise ConversionError(
                    f"{wanted.backend} gives networks the image alone; use the backend torch"
                )
            bf16 = wanted.amp == "bf16"
            self.networks = [engine(n, shape, wanted.backend, bf16=bf16) for n in self.networks]
            self.report.backend = wanted.backend
        except (ConversionError, MissingExtraError) as error:
            if not wanted.fall_back:
                raise
            self.report.fallbacks.append(f"torch was used instead: {error}")

    def to_device(self, image: Tensor) -> Tensor:
        """`image` on the device of the networks; the host does not wait for the copy."""
        if self.device.type == "cuda" and image.device.type == "cpu":
            image = image.pin_memory()
        return image.to(self.device, non_blocking=True)

    def windows_that_fit(self) -> int:
        """Number of windows that fit into half of the free memory, measured on one window; 1 on a CPU."""
        if self.device.type != "cuda":
            return 1
        # Memory needed before this study counts as well: too few windows are better than too many.
        need = max(torch.cuda.max_memory_allocated(self.device) - self._idle, 1)
        free, _ = torch.cuda.mem_get_info(self.device)
        free += torch.cuda.memory_reserved(self.device) - self._allocated()
        return max(min(free // 2 // need, _MOST_WINDOWS), 1)

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def _member(
        self, network: Network, flip: tuple[int, ...], windows: Tensor, args: tuple, kwargs: dict
    ) -> Tensor:
        if self.terms is not None:
            ask = network.terms  # type: ignore[attr-defined]
        else:
            ask = network if args or kwargs or not self._records else replayed(network, self.report.fallbacks)
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
