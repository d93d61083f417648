"""Reducers: from the class maps of a block of voxels to labels or one statistic.

A new reducer is made for each block. It is given all class maps at once (`reduce`), or one after the other
(`update`, then `finish`), when it keeps nothing class-sized.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Activation = Literal["softmax", "sigmoid"]


class Reducer(ABC):
    """Reduction of the class maps of one block."""

    dtype: type[np.generic] = np.float32
    #: Whether multiplying all logits of a voxel by one positive number leaves the result as it is.
    scale_free = False
    #: Whether the result has the channels of the network as its first axis.
    keeps_channels = False

    @abstractmethod
    def update(self, channel: int, logits: Tensor) -> None:
        """Fold in the map of the next class, which is valid only during the call."""

    @abstractmethod
    def finish(self) -> Tensor:
        """The result, of the shape of a class map."""

    def reduce(self, logits: Tensor) -> Tensor:
        """The result of all class maps (C, ...) at once."""
        for channel, values in enumerate(logits):
            self.update(channel, values)
        return self.finish()


class Argmax(Reducer):
    """The class of the highest logit; the first of equals, as `torch.argmax`."""

    dtype: type[np.generic] = np.uint8
    held = torch.uint8
    scale_free = True

    def update(self, channel: int, logits: Tensor) -> None:
        """Keep the highest logit so far and its class."""
        if channel == 0:
            self.best = logits.clone()
            self.labels = torch.zeros(logits.shape, dtype=self.held, device=logits.device)
            return
        # Classes ascend, so the maximum with the class where it wins is the class: no branch for each voxel.
        wins = (logits > self.best).view(torch.uint8).to(self.held)
        torch.maximum(self.labels, wins.mul_(channel), out=self.labels)
        torch.maximum(self.best, logits, out=self.best)

    def finish(self) -> Tensor:
        """Labels, uint8 up to 256 classes."""
        return self.labels

    def reduce(self, logits: Tensor) -> Tensor:
        """The same result as class by class, in one operation."""
        return logits.argmax(0).to(self.held)


class WideArgmax(Argmax):
    """`Argmax` for more than 256 classes, as uint16."""

    dtype = np.uint16
    held = torch.int32


class Regions(Reducer):
    """Overlapping regions, one sigmoid channel each, painted one over the other.

    Parameters
    ----------
    labels
        The label that each channel paints where its probability exceeds 0.5; later channels paint over
        earlier ones. For BraTS channels (tumour core, whole tumour, enhancing tumour), whose order of
        painting is not the order of the channels, use `order`.
    order
        Channels in the order of painting; ``None`` for the order in which they come.
    """

    dtype = np.uint8
    scale_free = True

    def __init__(self, labels: Sequence[int], order: Sequence[int] | None = None) -> None:
        self.paint = list(labels)
        ranks = list(range(len(self.paint))) if order is None else list(order)
        if sorted(ranks) != list(range(len(self.paint))):
            raise ValueError(f"order must name each of the {len(self.paint)} channels once, not {order}")
        if not all(0 <= label <= 255 for label in self.paint):
            raise ValueError(f"labels of regions must lie in 0..255, not {labels}")
        self.rank = {channel: rank for rank, channel in enumerate(ranks, start=1)}

    def update(self, channel: int, logits: Tensor) -> None:
        """Paint the region where no region of higher rank stands.

        Raises
        ------
        ValueError
            If the network has more channels than regions.
        """
        if channel == 0:
            self.labels = torch.zeros(logits.shape, dtype=torch.uint8, device=logits.device)
            self.ranks = torch.zeros_like(self.labels)
        if channel >= len(self.paint):
            raise ValueError(f"the network has more channels than the {len(self.paint)} region labels given")
        painted = (logits > 0) & (self.ranks < self.rank[channel])
        self.labels.masked_fill_(painted, self.paint[channel])
        self.ranks.masked_fill_(painted, self.rank[channel])

    def finish(self) -> Tensor:
        """Labels, uint8."""
        return self.labels


class _Softmax(Reducer):
    """Running sums of a softmax: `peak` = max x, `total` = sum exp(x - peak)."""

    def update(self, channel: int, logits: Tensor) -> None:
        """Fold in one class, rescaling the sums when the maximum rises."""
        if channel == 0:
            self.peak = logits.clone()
            self.total = torch.ones_like(self.peak)
            return
        peak = torch.maximum(self.peak, logits)
        self._rescale(self.peak - peak)
        self.peak = peak
        self._add(logits - peak)

    def _rescale(self, drop: Tensor) -> None:
        self.total.mul_(drop.exp())

    def _add(self, offset: Tensor) -> None:
        self.total.add_(offset.exp())


class Probability(_Softmax):
    """Softmax probability of one class.

    Parameters
    ----------
    index
        The class.
    """

    def __init__(self, index: int) -> None:
        self.index = index

    def update(self, channel: int, logits: Tensor) -> None:
        """Fold in one class, and remember the one that was asked for."""
        if channel == self.index:
            self.logit = logits.clone()
        super().update(channel, logits)

    def finish(self) -> Tensor:
        """Probability in 0..1."""
        return (self.logit - self.peak).exp_().div_(self.total)

    def reduce(self, logits: Tensor) -> Tensor:
        """The same result as class by class, in two operations."""
        return (logits[self.index] - logits.logsumexp(0)).exp_()


class Entropy(_Softmax):
    """Entropy of the softmax, as a share of its maximum log(classes): 0 is certain, 1 is a guess."""

    def update(self, channel: int, logits: Tensor) -> None:
        """Fold in one class."""
        if channel == 0:
            self.moment = torch.zeros_like(logits)
        self.classes = channel + 1
        super().update(channel, logits)

    def _rescale(self, drop: Tensor) -> None:
        self.moment.addcmul_(drop, self.total).mul_(drop.exp())
        super()._rescale(drop)

    def _add(self, offset: Tensor) -> None:
        share = offset.exp()
        self.total.add_(share)
        self.moment.addcmul_(offset, share)

    def finish(self) -> Tensor:
        """Entropy in 0..1."""
        entropy = self.total.log() - self.moment / self.total
        return entropy.div_(math.log(max(self.classes, 2))).clamp_(0, 1)

    def reduce(self, logits: Tensor) -> Tensor:
        """The same result as class by class, in few operations."""
        log_share = logits.log_softmax(0)
        entropy = log_share.exp().mul_(log_share).sum(0).neg_()
        return entropy.div_(math.log(max(len(logits), 2))).clamp_(0, 1)


class SigmoidProbability(Reducer):
    """Sigmoid probability of one region.

    Parameters
    ----------
    index
        The channel.
    """

    def __init__(self, index: int) -> None:
        self.index = index

    def update(self, channel: int, logits: Tensor) -> None:
        """Remember the channel that was asked for."""
        if channel == self.index:
            self.probability = logits.sigmoid()

    def finish(self) -> Tensor:
        """Probability in 0..1."""
        return self.probability


class SigmoidEntropy(Reducer):
    """Binary entropy of the most uncertain region, in bits, 0..1."""

    def update(self, channel: int, logits: Tensor) -> None:
        """Fold in one region."""
        p = logits.double().sigmoid()
        bits = (-(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)).to(logits.dtype)
        self.bits: Tensor = bits if channel == 0 else torch.maximum(self.bits, bits)

    def finish(self) -> Tensor:
        """Entropy in 0..1."""
        return self.bits


class Value(Reducer):
    """One channel as it is."""

    def update(self, channel: int, logits: Tensor) -> None:
        """Keep a copy."""
        self.value = logits.clone()

    def finish(self) -> Tensor:
        """The channel."""
        return self.value


class Values(Reducer):
    """All channels, for networks whose output is an image.

    Parameters
    ----------
    to_units
        Applied to the finished block (C, *block), such as the inverse of a scaling.
    """

    keeps_channels = True

    def __init__(self, to_units: Callable[[Tensor], Tensor] | None = None) -> None:
        self.to_units = to_units

    def update(self, channel: int, logits: Tensor) -> None:
        """Keep a copy of the channel."""
        kept: list[Tensor] = [] if channel == 0 else self.channels
        self.channels: list[Tensor] = [*kept, logits.clone()]

    def finish(self) -> Tensor:
        """(C, *block)."""
        values = torch.stack(self.channels)
        return values if self.to_units is None else self.to_units(values)

    def reduce(self, logits: Tensor) -> Tensor:
        """(C, *block)."""
        return logits if self.to_units is None else self.to_units(logits.clone())


def map_reducer(name: str, activation: Activation) -> Callable[[], Reducer]:
    """Maker of the reducer of an extra map: ``"entropy"``, ``"disagreement"`` or ``"probability:CLASS"``.

    Raises
    ------
    ValueError
        If there is no map of that name.
    """
    kind, _, index = name.partition(":")
    if name == "entropy":
        return Entropy if activation == "softmax" else SigmoidEntropy
    if name == "disagreement":
        return Value
    if kind == "probability" and index.isdigit():
        return partial(Probability if activation == "softmax" else SigmoidProbability, int(index))
    raise ValueError(f"there is no map {name!r}: use 'entropy', 'disagreement' or 'probability:CLASS'")
