"""The engine that all inferers share: it runs an image's windows through networks into results on a grid."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from medvit.errors import StudyError
from medvit.inference.copies import HostCopies
from medvit.inference.execution import Execution, Network
from medvit.inference.predict import Flips, InferenceReport, Predictor, SkipRule
from medvit.inference.reduce import Reducer
from medvit.inference.region import Region, RegionRule
from medvit.inference.resample import GridMap, map_grids, part_of_grid
from medvit.inference.stream import Slab, SlabStream
from medvit.inference.terms import Terms
from medvit.inference.windows import BlendMode, Volume, WindowPlan, as_volume, plan_windows, window_weights
from medvit.studies.study import Grid

Networks = Network | Sequence[Network]
Makers = Mapping[str, Callable[[], Reducer]]
Results = dict[str, Tensor | np.ndarray]

# Voxels by which a plane may be tilted against another one that it is parallel to.
_SAME_PLANE = 0.01


class WindowEngine(Inferer):
    """Base class of all inferers; a subclass chooses the reducers that make its results.

    Parameters
    ----------
    roi_size
        Voxels of a window along each axis; ``None`` or below 1 stands for the whole axis.
    overlap
        Share of a window that the next one covers again, in [0, 1).
    sw_batch_size
        Windows that the network processes at once; ``"auto"`` for as many as fit into half of a GPU's free
        memory, and one on a CPU.
    mode, sigma_scale
        Blend weights: ``"gaussian"`` or ``"constant"``, and the Gaussian's width as a share of the window.
    padding_mode, cval
        Padding of an image smaller than a window, as in `torch.nn.functional.pad`.
    flips
        Test-time flips; none by default.
    skip
        Rule that recognises windows (C, *roi_size) that no network needs to see.
    region
        Rule that finds the part of the image to segment; windows cover only that part, and everything outside
        is background: see `medvit.inference.CoarseRegion`.
    axis
        Streaming axis; ``None`` takes the one with the smallest accumulator.
    execution
        Device, precision, threads.
    """

    def __init__(
        self,
        roi_size: Sequence[int | None] | int,
        overlap: Sequence[float] | float = 0.5,
        sw_batch_size: int | Literal["auto"] = 1,
        mode: BlendMode = "gaussian",
        sigma_scale: float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        *,
        flips: Flips | None = None,
        skip: SkipRule | None = None,
        region: RegionRule | None = None,
        axis: int | None = None,
        execution: Execution | None = None,
    ) -> None:
        if sw_batch_size != "auto" and sw_batch_size < 1:
            raise ValueError(f"sw_batch_size must be 'auto', or 1 or more, not {sw_batch_size}")
        self.roi_size, self.overlap, self.sw_batch_size = roi_size, overlap, sw_batch_size
        self.mode, self.sigma_scale = mode, sigma_scale
        self.padding_mode, self.cval = padding_mode, cval
        self.flips, self.execution = flips or Flips(), execution or Execution()
        self.skip, self.region, self.axis = skip, region, axis
        self.report = InferenceReport()
        #: Called with the report after each batch of windows; an exception that it raises ends the inference.
        #: Unlike a hook of the network it is called where a GPU replays recorded launches as well.
        self.watch: Callable[[InferenceReport], None] | None = None

    @abstractmethod
    def makers(self, channels: int) -> Makers:
        """A maker of the reducer of each result, by the result's name; the first is the main one."""

    @abstractmethod
    def background(self, channels: int) -> Tensor:
        """Logits (channels,) outside all windows."""

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
    ) -> Results:
        """Results by name, in the target's grid; `out` receives the main one. Sets `report`."""
        started = time.perf_counter()
        volume, networks = as_volume(image), members(network)
        seen = self._seen(volume, networks)
        results = self._look(seen, volume, networks, target, (args, kwargs or {}), out)
        if seen.start and self._reaches_edge(next(iter(results.values())), seen, volume, target):
            note = "labels reached the edge of the region that was found: the whole image was segmented"
            results = self._look(
                Region(volume, note=note), volume, networks, target, (args, kwargs or {}), out
            )
        self.report.seconds = time.perf_counter() - started
        return results

    def _look(
        self,
        seen: Region,
        volume: Volume,
        networks: Sequence[Network],
        target: Grid | None,
        arguments: tuple[tuple, dict[str, Any]],
        out: np.ndarray | None,
    ) -> Results:
        """Results for one region, in the target's grid; fills in `report` except for the time."""
        shape = volume.size if target is None else target.shape
        self.report = report = InferenceReport()
        if seen.note:
            report.fallbacks.append(seen.note)
        if seen.start:
            report.region = [[a, a + n] for a, n in zip(seen.start, seen.volume.size, strict=True)]
        plan = self.plan(seen.volume.size)
        offset = [before for before, _ in plan.padding]
        mapping = self._mapping(volume, seen, target, offset)
        report.windows, report.axis, report.target = len(plan), plan.axis, mapping.kind
        disagreement = "disagreement" in self.makers(1)
        predictor = Predictor(networks, self.flips, self.execution, report, disagreement, in_terms=True)
        report.device = str(predictor.device)
        results: Results = {}
        blocks = 0
        copies = HostCopies(predictor.device)
        with self.execution.running(networks):
            for slab in self._stream(seen, plan, predictor, arguments):
                terms = predictor.terms
                channels = len(terms.of_class) if terms else len(slab.sums) - disagreement
                results = results or self._allocate(channels, shape, out, slab.sums.device)
                blocks += self._reduce(slab, channels, terms, mapping, results, copies)
            copies.finish()
        if results and not blocks and not (seen.start and target and map_grids(volume.grid, target).meet):
            raise StudyError(
                "grids-apart",
                "no voxel of the target grid lies in the image",
                path=volume.name,
                do="check that both are of the same study, with affines in RAS+ mm",
            )
        return results or self._allocate(1, shape, out, torch.device("cpu"))

    def _reaches_edge(
        self, result: np.ndarray | Tensor, seen: Region, volume: Volume, target: Grid | None
    ) -> bool:
        """Whether labels lie at a face of the region's box inside the image, which may cut them."""
        size = volume.size
        faces = [(a, seen.start[a], -1) for a in range(len(size)) if seen.start[a] > 0]
        stops = [start + n for start, n in zip(seen.start, seen.volume.size, strict=True)]
        faces += [(a, stops[a] - 1, 1) for a in range(len(size)) if stops[a] < size[a]]
        if not faces or next(iter(self.makers(1).values()))().keeps_channels:
            return False
        labels = result if isinstance(result, np.ndarray) else result.cpu().numpy()
        matrix = np.eye(len(size) + 1)
        if target is not None:
            matrix = np.linalg.solve(volume.grid.affine, target.affine)
        return any(_labels_near(labels, matrix[axis], place, side) for axis, place, side in faces)

    def _seen(self, volume: Volume, networks: Sequence[Network]) -> Region:
        """The part of the image that windows are laid over: all of it without a rule for a region."""
        if self.region is None:
            return Region(volume)
        with self.execution.running(networks):
            return self.region(volume, networks, self.execution)

    def _mapping(self, volume: Volume, seen: Region, target: Grid | None, offset: Sequence[int]) -> GridMap:
        if target is not None:
            return map_grids(seen.volume.grid, target, offset)
        start = seen.start or (0,) * len(volume.size)
        return part_of_grid(seen.volume.size, volume.size, start, offset)

    def _stream(
        self, seen: Region, plan: WindowPlan, predictor: Predictor, arguments: tuple[tuple, dict]
    ) -> SlabStream:
        return SlabStream(
            seen.volume,
            plan,
            predictor,
            self.weights(plan),
            batch_size=None if self.sw_batch_size == "auto" else self.sw_batch_size,
            skip=self.skip,
            wanted=seen.rule(plan),
            watch=self.watch,
            padding_mode=self.padding_mode,
            padding_value=self.cval,
            arguments=arguments,
        )

    def _allocate(
        self, channels: int, shape: tuple[int, ...], out: np.ndarray | None, device: torch.device
    ) -> Results:
        """Arrays of the results, filled with the values of voxels that no window covers."""
        results: Results = {}
        for name, make in self.makers(channels).items():
            reducer = make()
            full = (channels, *shape) if reducer.keeps_channels else shape
            fill: float = 0
            if self.region is not None and name != "disagreement":
                fill = float(reducer.reduce(self.background(channels)[:, None]))
            if out is not None and not results:
                if out.shape != full or not np.can_cast(reducer.dtype, out.dtype):
                    raise ValueError(
                        f"out must be an array of shape {full} that holds {np.dtype(reducer.dtype)}, "
                        f"not {out.shape} of {out.dtype}"
                    )
                out[...] = fill
                results[name] = out
            else:
                dtype = getattr(torch, np.dtype(reducer.dtype).name)
                results[name] = torch.full(full, fill, dtype=dtype, device=device)
        return results

    def _reduce(
        self,
        slab: Slab,
        channels: int,
        terms: Terms | None,
        mapping: GridMap,
        results: Results,
        copies: HostCopies,
    ) -> int:
        """Write the results that the slab completes, and return the number of blocks."""
        blocks = 0
        makers = self.makers(channels)
        if not (mapping.exact and all(make().scale_free for make in makers.values())):
            slab.normalise()
        if self.report.skipped:
            background = self.background(channels)
            disagreement = torch.zeros(max(len(slab.sums) - channels, 0))
            slab.fill_empty(terms.split(background) if terms else torch.cat([background, disagreement]))
        most, whole = self.execution.block(len(slab.sums), slab.sums.device)
        for block in mapping.blocks(slab, most):
            reducers = {name: make() for name, make in makers.items()}
            if whole:
                maps = block.all_maps()
                found = _all_at_once(terms.logits(maps) if terms else maps, reducers, channels)
            else:
                one_by_one = block.class_maps()
                found = _one_by_one(terms.in_turn(one_by_one) if terms else one_by_one, reducers, channels)
            for name, values in found.items():
                block.write(results[name], values, copies)
            blocks += 1
        return blocks


def _all_at_once(maps: Tensor, reducers: Mapping[str, Reducer], channels: int) -> dict[str, Tensor]:
    """Results of a block from all its maps (C, ...) at once; the map after the channels is disagreement."""
    return {
        name: reducer.reduce(maps[channels:] if name == "disagreement" else maps[:channels])
        for name, reducer in reducers.items()
    }


def _one_by_one(maps: Iterable[Tensor], reducers: Mapping[str, Reducer], channels: int) -> dict[str, Tensor]:
    """Results of a block from its class maps one at a time."""
    for channel, values in enumerate(maps):
        for name, reducer in reducers.items():
            if (name == "disagreement") == (channel >= channels):
                reducer.update(channel, values)
    return {name: reducer.finish() for name, reducer in reducers.items()}


def _labels_near(labels: np.ndarray, row: np.ndarray, place: int, side: int) -> bool:
    """Whether labels lie less than a voxel within the plane at `place`, or beyond it on that `side`.

    `row` turns the index of a label into its position along the axis of the plane.
    """
    position = np.full((1,) * labels.ndim, row[-1], np.float32)
    for step, index in zip(row[:-1], np.ogrid[tuple(map(slice, labels.shape))], strict=True):
        # What the axes of a tilted grid add is a whole array; those of an upright one add nothing.
        if abs(step) * index.size > _SAME_PLANE:
            position = position + np.float32(step) * index.astype(np.float32)
    return bool(((labels != 0) & (side * (position - place) > -1)).any())


def members(network: Networks) -> list[Network]:
    """The networks of an ensemble, or the single network."""
    if isinstance(network, nn.ModuleList) or not callable(network):
        return list(network)
    return [network]
