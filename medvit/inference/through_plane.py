"""Restoration across thick slices: a two-dimensional network over both planes that contain their normal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.errors import StudyError
from medvit.inference.engine import Networks
from medvit.inference.slices import SliceRestorer
from medvit.transforms.restoration import UNIT
from medvit.transforms.through_plane import REFINEMENT, Refinement, along


class ThroughPlaneRestorer(SliceRestorer):
    """The mean of a network's restorations of the planes across the slices, along both in-plane axes.

    The network sees planes whose last axis is the slices' normal. The result lies on the finer grid that
    `medvit.transforms.RefineSlicesd` made, in the study's intensities.

    Parameters
    ----------
    roi_size
        Pixels of a window along an axis of the slices and along their normal; ``None`` for the whole axis.
    overlap, slices, options
        As of `SliceRestorer`.
    consistent
        Share of what the measured slices and those of the estimate differ by that is given back to the
        estimate: 1 makes them agree, noise included.
    """

    def __init__(
        self,
        roi_size: Sequence[int | None],
        overlap: Sequence[float] | float = 0.25,
        slices: int = 4,
        *,
        consistent: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(roi_size, overlap, slices, **options)
        self.consistent = consistent

    def _call(self, image: Tensor, network: Networks, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        meta = image.meta if isinstance(image, MetaTensor) else {}
        refinement = meta.get(REFINEMENT)
        if not isinstance(refinement, Refinement):
            raise StudyError(
                "image-without-slices",
                "the image does not say where its slices lie",
                path=meta.get("filename_or_obj"),
                do="prepare it with RefineSlicesd",
            )
        voxels = image.as_tensor() if isinstance(image, MetaTensor) else image
        across = voxels.movedim(refinement.axis + 1, -1)
        restored = torch.zeros_like(across[:1])
        for plane in (0, 1):
            self.slice_axis = plane
            restored += torch.as_tensor(self.run(across, network, None, args, kwargs)["image"]) / 2
        restored = restored.movedim(-1, refinement.axis + 1)
        if self.consistent:
            stack = refinement.stack
            missing = refinement.acquired(voxels[:1]) - refinement.acquired(restored)
            restored += self.consistent * along(stack.refine(), missing, refinement.axis + 1)
        kept = {key: value for key, value in meta.items() if key != REFINEMENT}
        return MetaTensor(restored * float(meta.get(UNIT, 1.0)), meta=kept)
