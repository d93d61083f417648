"""Which windows cover an image, in which order, and how each of their voxels is weighted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor

BlendMode = Literal["gaussian", "constant"]


@dataclass(frozen=True)
class WindowPlan:
    """The windows that cover one image, layer by layer along one axis.

    Parameters
    ----------
    image_size
        Voxels of the image along its spatial axes.
    roi_size
        Voxels of a window.
    padding
        (before, after) for each axis: what is added to an image that is smaller than a window.
    starts
        For each axis, where windows start in the padded image, ascending.
    axis
        The spatial axis along which layers of windows follow each other.
    """

    image_size: tuple[int, ...]
    roi_size: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    starts: tuple[tuple[int, ...], ...]
    axis: int

    @property
    def padded_size(self) -> tuple[int, ...]:
        """Voxels of the image after padding."""
        return tuple(n + sum(pad) for n, pad in zip(self.image_size, self.padding, strict=True))

    @property
    def layers(self) -> tuple[int, ...]:
        """Where the layers of windows start along `axis`."""
        return self.starts[self.axis]

    def in_layer(self) -> Iterator[tuple[int, ...]]:
        """Starts of the windows of a layer, in `monai`'s order; 0 along `axis`, as layers are slabs."""
        return itertools.product(*((0,) if a == self.axis else s for a, s in enumerate(self.starts)))

    def __len__(self) -> int:
        return math.prod(len(starts) for starts in self.starts)


def plan_windows(
    image_size: Sequence[int],
    roi_size: Sequence[int | None] | int,
    overlap: Sequence[float] | float,
    axis: int | None = None,
) -> WindowPlan:
    """The same windows as `monai.inferers.SlidingWindowInferer`.

    Parameters
    ----------
    image_size
        Voxels of the image along its spatial axes.
    roi_size
        Voxels of a window; ``None`` or a value below 1 stands for the whole axis.
    overlap
        Share of a window that the next one covers again, in [0, 1); one value, or one an axis.
    axis
        Streaming axis; ``None`` takes the one that needs the smallest accumulator.

    Raises
    ------
    ValueError
        If the sizes, the overlap or the axis do not fit the image.
    """
    size = tuple(int(n) for n in image_size)
    rois = [roi_size] * len(size) if isinstance(roi_size, int) else list(roi_size)
    overlaps = [overlap] * len(size) if isinstance(overlap, int | float) else list(overlap)
    if min(size) < 1:
        raise ValueError(f"the image has no voxels: its size is {size}")
    if not len(rois) == len(overlaps) == len(size):
        raise ValueError(f"an image of size {size} needs {len(size)} values of roi_size and of overlap")
    if any(not 0 <= o < 1 for o in overlaps):
        raise ValueError(f"overlap must lie in [0, 1), not {overlap}")
    roi = tuple(r if r is not None and r > 0 else n for r, n in zip(rois, size, strict=True))
    if axis is None:
        axis = min(range(len(size)), key=lambda a: roi[a] / max(size[a], roi[a]))
    if not -len(size) <= axis < len(size):
        raise ValueError(f"axis {axis} does not exist in an image of size {size}")
    padding = tuple(
        (max(r - n, 0) // 2, max(r - n, 0) - max(r - n, 0) // 2) for r, n in zip(roi, size, strict=True)
    )
    starts = tuple(_starts(max(n, r), r, o) for n, r, o in zip(size, roi, overlaps, strict=True))
    return WindowPlan(size, roi, padding, starts, axis % len(size))


def _starts(size: int, roi: int, overlap: float) -> tuple[int, ...]:
    step = max(int(roi * (1 - overlap)), 1)
    last = size - roi
    return (*range(0, last, step), last)


def window_weights(
    roi_size: Sequence[int], mode: BlendMode = "gaussian", sigma_scale: float = 0.125
) -> Tensor:
    """Weight of each voxel of a window in the blend, of shape `roi_size`, float32.

    Parameters
    ----------
    roi_size
        Voxels of the window.
    mode
        ``"gaussian"`` (highest in the middle, as nnU-Net and MONAI) or ``"constant"``.
    sigma_scale
        Standard deviation of the Gaussian as a share of the window's edge.
    """
    return compute_importance_map(tuple(roi_size), mode=mode, sigma_scale=sigma_scale, dtype=torch.float32)
