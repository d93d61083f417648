"""`StreamingWindowInferer`: sliding windows without a class-sized copy of the volume."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import collate_meta_tensor
from monai.inferers import Inferer
from torch import Tensor, nn

from medvit.data.study import Grid
from medvit.errors import StudyError
from medvit.inferers.accumulate import Slab
from medvit.inferers.predict import Execution, Flips, InferenceReport, Network, Predictor, SkipRule
from medvit.inferers.reduce import Activation, Argmax, Reducer, Regions, WideArgmax, map_reducer
from medvit.inferers.resample import GridMap, map_grids, same_grid
from medvit.inferers.stream import SlabStream
from medvit.inferers.volume import Volume
from medvit.inferers.windows import BlendMode, WindowPlan, plan_windows, window_weights

Networks = Network | Sequence[Network]
# Logits of voxels that only skipped windows cover: certain background.
_CERTAIN = 10.0


def is_constant(window: Tensor) -> bool:
    """Whether each channel of a window (C, ...) has one value throughout: padding or masked-out air."""
    flat = window.flatten(1)
    return bool((flat == flat[:, :1]).all())


@dataclass(frozen=True)
class Inference:
    """What an inference gives.

    Parameters
    ----------
    labels
        (X, Y, Z) label map, uint8 or uint16, in the grid that was asked for.
    maps
        Extra maps (X, Y, Z) float32 by name.
    report
        What was done.
    """

    labels: np.ndarray
    maps: dict[str, np.ndarray]
    report: InferenceReport


class StreamingWindowInferer(Inferer):
    """Sliding-window inference that reduces each slab to labels as soon as all its windows are in.

    Windows, weights and labels are those of `monai.inferers.SlidingWindowInferer` followed by an argmax,
    but the only class-sized buffer is one window deep: 4 x classes x (roi depth + 1) x in-plane voxels
    bytes. With a target grid (`segment`) logits are interpolated linearly to the voxels of the study and
    reduced there, block by block.

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
    region_labels, region_order
        For networks with overlapping sigmoid regions: see `medvit.inferers.reduce.Regions`. ``None`` for
        classes that exclude each other (argmax).
    maps
        Extra maps: ``"entropy"``, ``"disagreement"`` (of networks and flips) and ``"probability:CLASS"``.
    grid
        What a call of the inferer gives: labels in the ``"input"``'s grid, or in that of the ``"source"``
        file, as MONAI's ``LoadImage`` notes it in the image's meta data.
    flips
        Test-time flips; none by default.
    skip
        ``"constant"`` skips windows in which every channel is constant, and labels what only such windows
        cover as background; or a rule from a window (C, *roi_size) to a bool. Off by default: a network
        whose answer to such a window is not known to be background must see it.
    axis
        Streaming axis; ``None`` takes the one with the smallest accumulator.
    execution
        Device, precision, threads.

    Examples
    --------
    >>> inferer = StreamingWindowInferer(roi_size=(16, 16, 16), overlap=0.5)
    >>> threshold = lambda windows: torch.cat([0.5 - windows, windows - 0.5], dim=1)
    >>> inferer(torch.ones(1, 1, 20, 24, 32), threshold).unique()
    tensor([1], dtype=torch.uint8)
    """

    #: Which results go to the array given as `out`.
    result_names = ("labels",)

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
        region_labels: Sequence[int] | None = None,
        region_order: Sequence[int] | None = None,
        maps: Sequence[str] = (),
        grid: Literal["input", "source"] = "input",
        flips: Flips | None = None,
        skip: Literal["constant"] | SkipRule | None = None,
        axis: int | None = None,
        execution: Execution | None = None,
    ) -> None:
        if sw_batch_size < 1:
            raise ValueError(f"sw_batch_size must be 1 or more, not {sw_batch_size}")
        if grid not in ("input", "source"):
            raise ValueError(f"grid must be 'input' or 'source', not {grid!r}")
        self.roi_size, self.overlap, self.sw_batch_size = roi_size, overlap, sw_batch_size
        self.mode, self.sigma_scale = mode, sigma_scale
        self.padding_mode, self.cval = padding_mode, cval
        activation: Activation = "softmax" if region_labels is None else "sigmoid"
        self.regions = None if region_labels is None else partial(Regions, region_labels, region_order)
        if self.regions is not None:
            self.regions()
        self.maps = {name: map_reducer(name, activation) for name in maps}
        self.grid, self.axis = grid, axis
        self.flips, self.execution = flips or Flips(), execution or Execution()
        self.skip: SkipRule | None = is_constant if skip == "constant" else skip
        self.report = InferenceReport()

    def __call__(self, inputs: Tensor, network: Networks, *args: Any, **kwargs: Any) -> Any:
        """Label maps of a batch.

        Parameters
        ----------
        inputs
            (B, C, X, Y[, Z]).
        network
            The network, or several (a sequence or `torch.nn.ModuleList`) whose logits are averaged.
        args, kwargs
            Given to the network beside the windows.

        Returns
        -------
        Tensor or dict
            (B, 1, X, Y[, Z]) labels, a MetaTensor if `inputs` is one; with `maps`, a dict that holds
            ``"labels"`` and each map.
        """
        cases = []
        for image in inputs:
            target = None if self.grid == "input" else source_grid(image)
            found = self.infer(image, network, target, *args, **kwargs)
            results = {"labels": found.labels, **found.maps}
            cases.append({name: _like(result, image, self.grid) for name, result in results.items()})
        batch = {name: _collate([case[name] for case in cases]) for name in cases[0]}
        return batch if self.maps else batch["labels"]

    def segment(
        self,
        image: Tensor | Volume,
        network: Networks,
        target: Grid | None = None,
        *,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Label map of one image in the grid of its study; see `infer`."""
        return self.infer(image, network, target, out=out).labels

    def infer(
        self,
        image: Tensor | Volume,
        network: Networks,
        target: Grid | None = None,
        *args: Any,
        out: np.ndarray | None = None,
        **kwargs: Any,
    ) -> Inference:
        """Label map, extra maps and report of one image.

        Parameters
        ----------
        image
            (C, X, Y[, Z]) preprocessed; its affine says where its voxels lie, in RAS+ mm.
        network
            The network, or several whose logits are averaged.
        target
            Grid to which the results go: each voxel takes the logits interpolated linearly at its centre.
            What lies outside the image is background. ``None`` for the image's own grid.
        out
            Array of the target's shape that takes the labels, such as a `numpy.memmap`.

        Raises
        ------
        StudyError
            If the image is not finite, or has no affine though a target is given.
        MedvitError
            If the network answers with NaN, or one window does not fit into memory.
        """
        started = time.perf_counter()
        volume = as_volume(image)
        networks: list[Network] = [network] if callable(network) else list(network)
        if isinstance(network, nn.ModuleList):
            networks = list(network)
        plan = plan_windows(volume.size, self.roi_size, self.overlap, self.axis)
        mapping, shape = self._mapping(volume, plan, target)
        self.report = report = InferenceReport(windows=len(plan), axis=plan.axis, target=mapping.kind)
        predictor = Predictor(networks, self.flips, self.execution, report, "disagreement" in self.maps)
        report.device = str(predictor.device)
        outputs: dict[str, np.ndarray] = {}
        with self.execution.running(networks):
            for slab in self._stream(volume, plan, predictor, args, kwargs):
                channels = len(slab.sums) - predictor.disagreement
                outputs = outputs or self._allocate(channels, shape, out)
                self._reduce(slab, channels, mapping, outputs)
        outputs = outputs or self._allocate(1, shape, out)
        report.seconds = time.perf_counter() - started
        return Inference(outputs.pop("labels"), outputs, report)

    def _mapping(
        self, volume: Volume, plan: WindowPlan, target: Grid | None
    ) -> tuple[GridMap, tuple[int, ...]]:
        offset = [before for before, _ in plan.padding]
        if target is None:
            return same_grid(volume.size, offset), volume.size
        return map_grids(volume.grid, target, offset), target.shape

    def _stream(
        self, volume: Volume, plan: WindowPlan, predictor: Predictor, args: tuple, kwargs: dict
    ) -> SlabStream:
        return SlabStream(
            volume,
            plan,
            predictor,
            window_weights(plan.roi_size, self.mode, self.sigma_scale),
            batch_size=self.sw_batch_size,
            skip=self.skip,
            padding_mode=self.padding_mode,
            padding_value=self.cval,
            arguments=(args, kwargs),
        )

    def _makers(self, channels: int) -> dict[str, Callable[[], Reducer]]:
        """A maker of the reducer of each result, by its name."""
        argmax = Argmax if channels <= 256 else WideArgmax
        return {"labels": self.regions or argmax, **self.maps}

    def _background(self, channels: int) -> Tensor:
        """Logits that stand for background where no window was looked at."""
        logits = torch.full((channels,), -_CERTAIN)
        if self.regions is None:
            logits[0] = _CERTAIN
        return logits

    def _allocate(
        self, channels: int, shape: tuple[int, ...], out: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        outputs = {}
        for name, make in self._makers(channels).items():
            reducer = make()
            lead = (channels,) if reducer.keeps_channels else ()
            if out is None or name not in self.result_names:
                outputs[name] = np.zeros((*lead, *shape), reducer.dtype)
                continue
            if out.shape != (*lead, *shape) or not np.can_cast(reducer.dtype, out.dtype):
                raise ValueError(
                    f"out must be an array of shape {(*lead, *shape)} that holds {np.dtype(reducer.dtype)}, "
                    f"not {out.shape} of {out.dtype}"
                )
            out[...] = 0
            outputs[name] = out
        return outputs

    def _reduce(self, slab: Slab, channels: int, mapping: GridMap, outputs: dict[str, np.ndarray]) -> None:
        makers = self._makers(channels)
        if not (mapping.exact and all(make().scale_free for make in makers.values())):
            slab.normalise()
        if self.skip is not None:
            extra = torch.zeros(len(slab.sums) - channels)
            slab.fill_empty(torch.cat([self._background(channels), extra]))
        for block in mapping.blocks(slab):
            reducers = {name: make() for name, make in makers.items()}
            for channel, values in enumerate(block.class_maps()):
                for name, reducer in reducers.items():
                    if (name == "disagreement") == (channel >= channels):
                        reducer.update(channel, values)
            for name, reducer in reducers.items():
                block.write(outputs[name], reducer.finish())


def as_volume(image: Tensor | Volume) -> Volume:
    """A tensor (C, X, Y[, Z]) as a volume that windows are read from."""
    if isinstance(image, Volume):
        return image
    if not isinstance(image, MetaTensor):
        return Volume(image)
    return Volume(image.as_tensor(), image.affine, name=image.meta.get("filename_or_obj"))


def source_grid(image: Tensor) -> Grid:
    """The grid of the file that an image was loaded from, as MONAI's ``LoadImage`` notes it.

    Raises
    ------
    StudyError
        If the image does not know its file's grid.
    """
    meta = image.meta if isinstance(image, MetaTensor) else {}
    if "original_affine" not in meta or "spatial_shape" not in meta:
        raise StudyError(
            "image-without-source",
            "the image does not say in which grid its file was, so labels cannot go back to it",
            path=meta.get("filename_or_obj"),
            do="load it with LoadImaged, or use grid='input'",
        )
    x, y, z = (int(n) for n in [*torch.as_tensor(meta["spatial_shape"]).tolist(), 1][:3])
    return Grid((x, y, z), np.asarray(meta["original_affine"], np.float64))


def _like(result: np.ndarray, image: Tensor, grid: str) -> Tensor:
    """A map (X, Y[, Z]) as a channel-first tensor with the meta data of its image."""
    tensor = torch.from_numpy(result)[None].to(image.device)
    if not isinstance(image, MetaTensor):
        return tensor
    if grid == "input":
        return MetaTensor(tensor, meta=image.meta, applied_operations=image.applied_operations)
    affine = torch.as_tensor(np.asarray(image.meta["original_affine"], np.float64))
    return MetaTensor(tensor, meta={**image.meta, "affine": affine})


def _collate(items: Sequence[Tensor]) -> Tensor:
    return collate_meta_tensor(items) if isinstance(items[0], MetaTensor) else torch.stack(list(items))
