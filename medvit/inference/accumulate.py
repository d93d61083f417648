"""The rolling accumulator: weighted sums of overlapping windows, one window deep along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medvit.inference.windows import WindowPlan


@dataclass(frozen=True)
class Slab:
    """Finished planes of the blend, as views that are valid until the accumulator goes on.

    Parameters
    ----------
    sums
        (C, X, Y, Z), weighted sums; along the streaming axis only the planes of the slab.
    weights
        (X, Y, Z), the sums of the weights; 0 where no window contributed.
    start, stop
        The planes that are new, as indices along the streaming axis of the padded image.
    first
        Index of plane 0 of `sums`: ``start``, or ``start - 1`` where the last plane of the slab before is
        there too, to interpolate across the seam.
    axis
        The streaming axis.
    """

    sums: Tensor
    weights: Tensor
    start: int
    stop: int
    first: int
    axis: int

    def narrow(self, start: int, stop: int) -> Tensor:
        """Sums of planes `start` to `stop`, indices of the padded image."""
        return self.sums.narrow(self.axis + 1, start - self.first, stop - start)

    def normalise(self) -> None:
        """Turn the sums of the new planes into weighted means, in place; to be called once."""
        weights = self.weights.narrow(self.axis, self.start - self.first, self.stop - self.start)
        self.narrow(self.start, self.stop).div_(weights.clamp(min=torch.finfo(weights.dtype).tiny))

    def fill_empty(self, background: Tensor) -> None:
        """Give voxels that no window reached the logits (C,) of background."""
        empty = self.weights == 0
        if empty.any():
            for channel, value in zip(self.sums, background.tolist(), strict=True):
                channel.masked_fill_(empty, value)


class RollingAccumulator:
    """Adds windows layer by layer and gives back each plane as soon as all its windows are in.

    Parameters
    ----------
    plan
        The windows.
    channels
        Channels of the predictions.
    weights
        Weight of each voxel of a window, of shape `plan.roi_size`.
    device
        Where the sums are held: 4 x (channels + 1) x (roi depth + 1) x in-plane voxels bytes.
    layer
        The first layer that has a window to add.
    """

    def __init__(
        self, plan: WindowPlan, channels: int, weights: Tensor, device: torch.device | str, layer: int = 0
    ) -> None:
        self.plan, self.axis, self.window_weights = plan, plan.axis, weights.to(device)
        size = list(plan.padded_size)
        # One plane more than a window: the last finished plane stays for interpolation across the seam.
        size[self.axis] = plan.roi_size[self.axis] + 1
        self.sums = torch.zeros(channels, *size, device=device)
        self.weights = torch.zeros(size, device=device)
        self.layer = layer

    @property
    def device(self) -> torch.device:
        """Where the sums are held."""
        return self.sums.device

    def add(self, start: Sequence[int], prediction: Tensor) -> None:
        """Add the float32 prediction (C, *roi_size) of the present layer's window that starts at `start`."""
        where = tuple(
            slice(s + (a == self.axis), s + (a == self.axis) + r)
            for a, (s, r) in enumerate(zip(start, self.plan.roi_size, strict=True))
        )
        self.sums[(slice(None), *where)].addcmul_(prediction, self.window_weights)
        self.weights[where].add_(self.window_weights)

    def finish_layer(self) -> Slab:
        """The planes that no later layer touches."""
        start, stop = self._present()
        has_seam = self.layer > 0
        first = start - has_seam
        planes = slice(1 - has_seam, 1 + stop - start)
        where = (slice(None),) * self.axis + (planes,)
        return Slab(self.sums[(slice(None), *where)], self.weights[where], start, stop, first, self.axis)

    def next_layer(self) -> None:
        """Forget the finished planes but the last, and make room for the next layer."""
        start, stop = self._present()
        self.layer += 1
        for buffer, axis in ((self.sums, self.axis + 1), (self.weights, self.axis)):
            _shift(buffer, axis, stop - start)

    def to(self, device: torch.device | str) -> None:
        """Move the sums, as where a device runs out of memory."""
        self.sums, self.weights = self.sums.to(device), self.weights.to(device)
        self.window_weights = self.window_weights.to(device)

    def _present(self) -> tuple[int, int]:
        layers = (*self.plan.layers, self.plan.padded_size[self.axis])
        return layers[self.layer], layers[self.layer + 1]


def _shift(buffer: Tensor, axis: int, step: int) -> None:
    """Move planes `step` towards the front and zero what becomes free, without a second buffer."""
    depth = buffer.shape[axis]
    for start in range(0, depth - step, step):
        length = min(step, depth - step - start)
        buffer.narrow(axis, start, length).copy_(buffer.narrow(axis, start + step, length))
    buffer.narrow(axis, depth - step, step).zero_()
