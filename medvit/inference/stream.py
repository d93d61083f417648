"""The stream: windows of an image through the networks, layer by layer, into finished slabs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvit.errors import MedvitError
from medvit.inference.accumulate import RollingAccumulator, Slab
from medvit.inference.predict import Predictor, SkipRule
from medvit.inference.volume import Volume, pad
from medvit.inference.windows import WindowPlan


@dataclass
class SlabStream:
    """Iterate over finished slabs; each is valid until the next is asked for.

    When a device runs out of memory the batch is halved down to one window, and then the accumulator moves
    to the host; the predictor's report says so.

    Parameters
    ----------
    volume, plan
        The image and its windows.
    predictor
        Logits of a batch of windows.
    weights
        Weight of each voxel of a window.
    batch_size
        Windows that go through the networks at once.
    skip
        Rule that tells windows of which nothing need be seen; they contribute nothing.
    padding_mode, padding_value
        How an image smaller than a window is padded.
    arguments
        Positional and keyword arguments of the networks beside the windows.
    """

    volume: Volume
    plan: WindowPlan
    predictor: Predictor
    weights: Tensor
    batch_size: int = 1
    skip: SkipRule | None = None
    padding_mode: str = "constant"
    padding_value: float = 0.0
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __iter__(self) -> Iterator[Slab]:
        self.accumulator: RollingAccumulator | None = None
        self.host_sums = False
        for layer, start in enumerate(self.plan.layers):
            self._predict(self._read(start), layer)
            if self.accumulator is None:
                continue
            slab = self.accumulator.finish_layer()
            if not torch.isfinite(slab.sums.sum()):
                raise MedvitError(
                    f"{self.volume.name or 'the image'}: the network answers with NaN or infinite logits; "
                    "check its weights, the scaling of the image, and run it in float32"
                )
            yield slab
            self.accumulator.next_layer()

    def _read(self, start: int) -> Tensor:
        axis = self.plan.axis
        stop = min(start + self.plan.roi_size[axis], self.plan.image_size[axis])
        slab = self.volume.read(axis, start, stop)
        return pad(slab, self.plan.padding, self.padding_mode, self.padding_value)

    def _predict(self, image: Tensor, layer: int) -> None:
        roi = self.plan.roi_size
        places = {
            start: (slice(None), *(slice(s, s + r) for s, r in zip(start, roi, strict=True)))
            for start in self.plan.in_layer()
        }
        pending = [s for s, where in places.items() if self.skip is None or not self.skip(image[where])]
        self.predictor.report.skipped += len(places) - len(pending)
        args, kwargs = self.arguments
        while pending:
            batch = pending[: self.batch_size]
            try:
                logits = self.predictor(torch.stack([image[places[s]] for s in batch]), *args, **kwargs)
                sums = self._sums(logits, layer)
                logits = logits.to(sums.device, torch.float32)
            except torch.OutOfMemoryError as error:
                self._step_down(len(batch), error)
                continue
            for start, prediction in zip(batch, logits, strict=True):
                sums.add(start, prediction)
            # Or these logits would stand in memory beside those of the next batch.
            del logits, prediction
            pending = pending[len(batch) :]

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
                f"into the memory of {self.predictor.device}; take a smaller roi_size or another device"
            ) from error
        if self.predictor.device.type == "cuda":
            torch.cuda.empty_cache()
