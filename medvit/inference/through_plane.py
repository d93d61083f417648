"""Restoration on a finer grid: a two-dimensional network across thick slices, or within slices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.errors import StudyError
from medvit.inference.engine import Networks
from medvit.inference.slices import SliceRestorer
from medvit.networks.blended import HALF_NOISE, smooth_share
from medvit.transforms.restoration import UNIT
from medvit.transforms.through_plane import REFINEMENT, Refinement


class RefinedRestorer(SliceRestorer, ABC):
    """A network's restoration of a refined image, on the finer grid and in the study's intensities.

    Parameters
    ----------
    roi_size
        Pixels of a window along both axes of the planes that the network sees; ``None`` for the whole axis.
    overlap, slices, options
        Same as in `SliceRestorer`.
    consistent
        Share of the difference between the measured slices and those of the estimate that is added to the
        estimate: 1 makes them agree, noise included; ``None`` for 1 without noise and less the more there is,
        see `medvit.networks.blended.smooth_share`.
    half_noise
        Noise at which that share is a half.
    """

    def __init__(
        self,
        roi_size: Sequence[int | None],
        overlap: Sequence[float] | float = 0.25,
        slices: int = 4,
        *,
        consistent: float | None = 0.0,
        half_noise: float = HALF_NOISE,
        **options: Any,
    ) -> None:
        super().__init__(roi_size, overlap, slices, **options)
        self.consistent, self.half_noise = consistent, half_noise

    @abstractmethod
    def _restored(self, voxels: Tensor, axis: int, run: Callable[[Tensor], Tensor]) -> Tensor:
        """The restoration (1, X, Y, Z) of an image whose slices follow each other along `axis`."""

    def _call(self, image: Tensor, network: Networks, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        meta = image.meta if isinstance(image, MetaTensor) else {}
        refinement = meta.get(REFINEMENT)
        if not isinstance(refinement, Refinement):
            raise StudyError(
                "image-without-slices",
                "the image does not state the place of its slices",
                path=meta.get("filename_or_obj"),
                do="prepare it with RefineSlicesd or RefinePixelsd",
            )
        voxels = image.as_tensor() if isinstance(image, MetaTensor) else image
        run = partial(self._run_planes, network=network, args=args, kwargs=kwargs)
        restored = self._restored(voxels, refinement.axis, run)
        if given_back := self._given_back(voxels, refinement.axis):
            missing = refinement.acquired(voxels[:1]) - refinement.acquired(restored)
            restored = restored + given_back * refinement.estimated(missing)
        kept = {key: value for key, value in meta.items() if key != REFINEMENT}
        return MetaTensor(restored * float(meta.get(UNIT, 1.0)), meta=kept)

    def _given_back(self, voxels: Tensor, axis: int) -> float:
        """The share `consistent`, or what the noise along the first axis within the slices leaves of 1."""
        if self.consistent is not None:
            return self.consistent
        rows = voxels.movedim(2 if axis == 0 else 1, 1).flatten(2)[None]
        return 1 - float(smooth_share(rows[:, 2:3], rows[:, 1:2], self.half_noise))

    def _run_planes(self, image: Tensor, network: Networks, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        return torch.as_tensor(self.run(image, network, None, args, kwargs)["image"])


class ThroughPlaneRestorer(RefinedRestorer):
    """The mean of a network's restorations of the planes across the slices, along both in-plane axes.

    The network sees planes whose last axis is the slices' normal. The finer grid is that of
    `medvit.transforms.RefineSlicesd`. Parameters are those of `RefinedRestorer`.
    """

    def _restored(self, voxels: Tensor, axis: int, run: Callable[[Tensor], Tensor]) -> Tensor:
        across = voxels.movedim(axis + 1, -1)
        restored = torch.zeros_like(across[:1])
        for self.slice_axis in (0, 1):
            restored += run(across) / 2
        return restored.movedim(-1, axis + 1)


class InPlaneRestorer(RefinedRestorer):
    """A network's restorations of slices whose pixels became finer.

    The finer grid is that of `medvit.transforms.RefinePixelsd`. Parameters are those of `RefinedRestorer`.
    """

    def _restored(self, voxels: Tensor, axis: int, run: Callable[[Tensor], Tensor]) -> Tensor:
        self.slice_axis = axis
        return run(voxels)
