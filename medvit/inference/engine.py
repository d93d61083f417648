"""The engine under the inferers: windows of one image through networks into results in a grid."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from medvit.errors import StudyError
from medvit.inference.accumulate import Slab
from medvit.inference.predict import Execution, Flips, InferenceReport, Network, Predictor, SkipRule
from medvit.inference.reduce import Reducer
from medvit.inference.resample import GridMap, map_grids, same_grid
from medvit.inference.stream import SlabStream
from medvit.inference.volume import Volume
from medvit.inference.windows import BlendMode, WindowPlan, plan_windows, window_weights
from medvit.studies.study import Grid

Networks = Network | Sequence[Network]
Makers = Mapping[str, Callable[[], Reducer]]


class WindowEngine(Inferer):
    """What all inferers share: a subclass says which reducers make its results.

    Parameters
    ----------
    roi_size
        Voxels of a window along each axis; ``None`` or below 1 stands for the whole axis.
    overlap
        Share of a window that the next one covers again, in [0, 1).
    sw_batch_size
        Windows that go through the network at once.
    mode, sigma_scale
        Blend weights: ``"gaussian"`` or ``"constant"``, and the Gaussian's width as a share of the window.
    padding_mode, cval
        How an image smaller than a window is padded, as `torch.nn.functional.pad`.
    flips
        Test-time flips; none by default.
    skip
        Rule that tells windows (C, *roi_size) that no network need see.
    axis
        Streaming axis; ``None`` takes the one with the smallest accumulator.
    execution
        Device, precision, threads.
    """

    def __init__(
        self,
        roi_size: Sequence[int | None] | int,
        overlap: Sequence[float] | float = 0.5,
        sw_batch_size: int = 1,
        mode: BlendMode = "gaussian",
        sigma_scale: float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        *,
        flips: Flips | None = None,
        skip: SkipRule | None = None,
        axis: int | None = None,
        execution: Execution | None = None,
    ) -> None:
        if sw_batch_size < 1:
            raise ValueError(f"sw_batch_size must be 1 or more, not {sw_batch_size}")
        self.roi_size, self.overlap, self.sw_batch_size = roi_size, overlap, sw_batch_size
        self.mode, self.sigma_scale = mode, sigma_scale
        self.padding_mode, self.cval = padding_mode, cval
        self.flips, self.execution = flips or Flips(), execution or Execution()
        self.skip, self.axis = skip, axis
        self.report = InferenceReport()

    @abstractmethod
    def makers(self, channels: int) -> Makers:
        """A maker of the reducer of each result, by the result's name; the first is the main one."""

    @abstractmethod
    def background(self, channels: int) -> Tensor:
        """Logits (channels,) where no window was looked at."""

    def plan(self, size: Sequence[int]) -> WindowPlan:
        """The windows of an image of that size."""
        return plan_windows(size, self.roi_size, self.overlap, self.axis)

    def weights(self, plan: WindowPlan) -> Tensor:
        """Weight of each voxel of a window in the blend."""
        return window_weights(plan.roi_size, self.mode, self.sigma_scale)

    def run(
        self,
        image: Tensor | Volume,
        network: Networks,
        target: Grid | None,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
        out: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Results by name, in the target's grid; `out` takes the main one. Sets `report`."""
        started = time.perf_counter()
        volume, networks = as_volume(image), members(network)
        plan = self.plan(volume.size)
        offset = [before for before, _ in plan.padding]
        mapping = same_grid(volume.size, offset) if target is None else map_grids(volume.grid, target, offset)
        shape = volume.size if target is None else target.shape
        self.report = report = InferenceReport(windows=len(plan), axis=plan.axis, target=mapping.kind)
        predictor = Predictor(networks, self.flips, self.execution, report, "disagreement" in self.makers(1))
        report.device = str(predictor.device)
        results: dict[str, np.ndarray] = {}
        blocks = 0
        with self.execution.running(networks):
            for slab in self._stream(volume, plan, predictor, (args, kwargs or {})):
                channels = len(slab.sums) - predictor.disagreement
                results = results or self._allocate(channels, shape, out)
                blocks += self._reduce(slab, channels, mapping, results)
        if results and not blocks:
            raise StudyError(
                "grids-apart",
                "no voxel of the target grid lies in the image",
                path=volume.name,
                do="check that both are of the same study, with affines in RAS+ mm",
            )
        report.seconds = time.perf_counter() - started
        return results or self._allocate(1, shape, out)

    def _stream(
        self, volume: Volume, plan: WindowPlan, predictor: Predictor, arguments: tuple[tuple, dict]
    ) -> SlabStream:
        return SlabStream(
            volume,
            plan,
            predictor,
            self.weights(plan),
            batch_size=self.sw_batch_size,
            skip=self.skip,
            padding_mode=self.padding_mode,
            padding_value=self.cval,
            arguments=arguments,
        )

    def _allocate(
        self, channels: int, shape: tuple[int, ...], out: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        results: dict[str, np.ndarray] = {}
        for name, make in self.makers(channels).items():
            reducer = make()
            full = (channels, *shape) if reducer.keeps_channels else shape
            results[name] = np.zeros(full, reducer.dtype) if out is None or results else out
            if results[name].shape != full or not np.can_cast(reducer.dtype, results[name].dtype):
                raise ValueError(
                    f"out must be an array of shape {full} that holds {np.dtype(reducer.dtype)}, "
                    f"not {results[name].shape} of {results[name].dtype}"
                )
        if out is not None:
            out[...] = 0
        return results

    def _reduce(self, slab: Slab, channels: int, mapping: GridMap, results: dict[str, np.ndarray]) -> int:
        """Write what the slab decides; the number of blocks."""
        blocks = 0
        makers = self.makers(channels)
        if not (mapping.exact and all(make().scale_free for make in makers.values())):
            slab.normalise()
        if self.skip is not None:
            certain = torch.zeros(len(slab.sums) - channels)
            slab.fill_empty(torch.cat([self.background(channels), certain]))
        for block in mapping.blocks(slab):
            reducers = {name: make() for name, make in makers.items()}
            for channel, values in enumerate(block.class_maps()):
                for name, reducer in reducers.items():
                    if (name == "disagreement") == (channel >= channels):
                        reducer.update(channel, values)
            for name, reducer in reducers.items():
                block.write(results[name], reducer.finish())
            blocks += 1
        return blocks


def members(network: Networks) -> list[Network]:
    """The networks of an ensemble, or the one there is."""
    if isinstance(network, nn.ModuleList) or not callable(network):
        return list(network)
    return [network]


def as_volume(image: Tensor | Volume) -> Volume:
    """A tensor (C, X, Y[, Z]) as a volume that windows are read from."""
    if isinstance(image, Volume):
        return image
    if not isinstance(image, MetaTensor):
        return Volume(image)
    return Volume(image.as_tensor(), image.affine, name=image.meta.get("filename_or_obj"))
