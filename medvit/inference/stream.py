"""The stream: windows of an image through the networks, layer by layer, blended into finished slabs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvit.errors import MedvitError, StudyError
from medvit.inference.memory import give_back
from medvit.inference.predict import InferenceReport, Predictor, SkipRule
from medvit.inference.windows import Volume, WindowPlan, pad


@dataclass(frozen=True)
class Slab:
    """Finished planes of the blend, as views that are valid until the accumulator continues.

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
        for channel, value in zip(self.sums, background.tolist(), strict=True):
            channel.masked_fill_(empty, value)


class RollingAccumulator:
    """Adds windows layer by layer and returns each plane as soon as all of its windows are added.

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
        """Add the float32 prediction (C, *roi_size) of the current layer's window that starts at `start`."""
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
        """Forget all finished planes but the last, and make room for the next layer."""
        start, stop = self._present()
        self.layer += 1
        for buffer, axis in ((self.sums, self.axis + 1), (self.weights, self.axis)):
            _shift(buffer, axis, stop - start)

    def to(self, device: torch.device | str) -> None:
        """Move the sums, as when a device runs out of memory."""
        self.sums, self.weights = self.sums.to(device), self.weights.to(device)
        self.window_weights = self.window_weights.to(device)

    def _present(self) -> tuple[int, int]:
        layers = (*self.plan.layers, self.plan.padded_size[self.axis])
        return layers[self.layer], layers[self.layer + 1]


def _shift(buffer: Tensor, axis: int, step: int) -> None:
    """Move planes `step` towards the front and zero the freed ones, without a second buffer."""
    depth = buffer.shape[axis]
    for start in range(0, depth - step, step):
        length = min(step, depth - step - start)
        buffer.narrow(axis, start, length).copy_(buffer.narrow(axis, start + step, length))
    buffer.narrow(axis, depth - step, step).zero_()


@dataclass
class SlabStream:
    """Iterate over finished slabs; each is valid until the next is requested.

    The host never waits for the device on the way: whether image and logits are finite is noted there and
    read after the last slab. If a device runs out of memory, the batch is halved down to one window, and then
    the accumulator moves to the host; the predictor's report says so.

    Parameters
    ----------
    volume, plan
        The image and its windows.
    predictor
        Logits of a batch of windows.
    weights
        Weight of each voxel of a window.
    batch_size
        Windows that go through the networks at once; ``None`` for as many as fit into the device's memory.
    skip
        Rule that recognises windows without content; they contribute nothing.
    wanted
        Rule that decides by its place, the first voxel in the padded image, whether a window is needed.
    watch
        Called with the report after each batch; an exception that it raises ends the inference.
    padding_mode, padding_value
        How an image smaller than a window is padded.
    arguments
        Positional and keyword arguments of the networks beside the windows.

    Raises
    ------
    StudyError
        If a voxel of the image is not a finite number.
    MedvitError
        If a logit is not a finite number, or one window does not fit into memory.
    """

    volume: Volume
    plan: WindowPlan
    predictor: Predictor
    weights: Tensor
    batch_size: int | None = 1
    skip: SkipRule | None = None
    wanted: Callable[[tuple[int, ...]], bool] | None = None
    watch: Callable[[InferenceReport], None] | None = None
    padding_mode: str = "constant"
    padding_value: float = 0.0
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __iter__(self) -> Iterator[Slab]:
        self.accumulator: RollingAccumulator | None = None
        self.host_sums = False
        read: list[Tensor] = []
        answered: list[Tensor] = []
        for layer, start in enumerate(self.plan.layers):
            image = self._read(start)
            read.append(image.sum())
            self._predict(image, layer)
            if self.accumulator is None:
                continue
            slab = self.accumulator.finish_layer()
            answered.append(slab.sums.sum())
            yield slab
            self.accumulator.next_layer()
            give_back()
        self._refuse_infinite(read, answered)

    def _refuse_infinite(self, read: list[Tensor], answered: list[Tensor]) -> None:
        if not all(map(math.isfinite, torch.stack(read).tolist())):
            raise StudyError(
                "image-not-finite",
                "the image holds voxels that are NaN or infinite",
                path=self.volume.name,
                do="repair the image, for example by replacing them with the value of air",
            )
        if answered and not all(map(math.isfinite, torch.stack([a.cpu() for a in answered]).tolist())):
            raise MedvitError(
                f"{self.volume.name or 'the image'}: the network gives NaN or infinite logits; "
                "check its weights, the scaling of the image, and run it in float32"
            )

    def _read(self, start: int) -> Tensor:
        axis = self.plan.axis
        stop = min(start + self.plan.roi_size[axis], self.plan.image_size[axis])
        slab = self.predictor.to_device(self.volume.read(axis, start, stop))
        return pad(slab, self.plan.padding, self.padding_mode, self.padding_value)

    def _predict(self, image: Tensor, layer: int) -> None:
        places = self._places(layer)
        pending = self._unskipped(image, places)
        self.predictor.report.skipped += len(list(self.plan.in_layer())) - len(pending)
        args, kwargs = self.arguments
        while pending:
            batch = pending[: self._batch(len(pending))]
            try:
                logits = self.predictor(torch.stack([image[places[s]] for s in batch]), *args, **kwargs)
                sums = self._sums(logits, layer)
                logits = logits.to(sums.device, torch.float32)
            except torch.OutOfMemoryError as error:
                self._step_down(len(batch), error)
                continue
            for start, prediction in zip(batch, logits, strict=True):
                sums.add(start, prediction)
            if self.watch is not None:
                self.watch(self.predictor.report)
            # Otherwise these logits would stay in memory beside those of the next batch.
            del logits, prediction
            pending = pending[len(batch) :]

    def _places(self, layer: int) -> dict[tuple[int, ...], tuple[slice, ...]]:
        """Positions in the slab of the layer's windows that may have to be processed, by their starts."""
        along, roi = self.plan.axis, self.plan.roi_size
        places = {}
        for start in self.plan.in_layer():
            whole = (*start[:along], self.plan.layers[layer], *start[along + 1 :])
            if self.wanted is None or self.wanted(whole):
                places[start] = (slice(None), *(slice(s, s + r) for s, r in zip(start, roi, strict=True)))
        return places

    def _unskipped(
        self, image: Tensor, places: dict[tuple[int, ...], tuple[slice, ...]]
    ) -> list[tuple[int, ...]]:
        if self.skip is None or not places:
            return list(places)
        # Computed for all windows and then read at once: reading one by one would leave the device idle.
        verdicts = [torch.as_tensor(self.skip(image[where])) for where in places.values()]
        return [s for s, skip in zip(places, torch.stack(verdicts).tolist(), strict=True) if not skip]

    def _batch(self, pending: int) -> int:
        if self.batch_size is None:
            if self.predictor.report.forward_passes == 0:
                return 1
            per_layer = math.prod(len(s) for a, s in enumerate(self.plan.starts) if a != self.plan.axis)
            self.batch_size = even_batch(per_layer, self.predictor.windows_that_fit())
        return self.batch_size

    def _sums(self, logits: Tensor, layer: int) -> RollingAccumulator:
        if self.accumulator is None:
            device = "cpu" if self.host_sums else logits.device
            self.accumulator = RollingAccumulator(self.plan, logits.shape[1], self.weights, device, layer)
        return self.accumulator

    def _step_down(self, batch: int, error: torch.OutOfMemoryError) -> None:
        report = self.predictor.report
        if batch > 1:
            self.batch_size = batch // 2
            report.fallbacks.append(f"out of memory with {batch} windows at once: {self.batch_size} at once")
        elif not self.host_sums:
            self.host_sums = True
            if self.accumulator is not None:
                self.accumulator.to("cpu")
            report.fallbacks.append("out of memory with one window: the blended logits are held on the host")
        else:
            raise MedvitError(
                f"{self.volume.name or 'the image'}: one window of {self.plan.roi_size} does not fit "
                f"into the memory of {self.predictor.device}; use a smaller roi_size or another device"
            ) from error
        if self.predictor.device.type == "cuda":
            torch.cuda.empty_cache()


def even_batch(windows: int, most: int) -> int:
    """Batch size of at most `most` windows that makes a layer's batches equal where that costs little."""
    most = max(min(windows, most), 1)
    return next((n for n in range(most, most // 2, -1) if windows % n == 0), most)
