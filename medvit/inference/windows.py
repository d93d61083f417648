"""Sliding windows: how they are read, how they cover an image, and how their voxels are weighted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from torch import Tensor

from medvit.errors import StudyError
from medvit.studies.study import Grid

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
        (before, after) for each axis: voxels added to an image that is smaller than a window.
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
        """Starts of the windows of a layer, in MONAI's order; 0 along `axis`, as layers are slabs."""
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
        Share of a window that the next one covers again, in [0, 1); one value, or one per axis.
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


class Volume:
    """A channel-first image that is read along one axis.

    Parameters
    ----------
    data
        Anything with a shape (C, X, Y, Z) that gives an array when sliced: a tensor, an array,
        `numpy.memmap`, or nibabel's ``image.dataobj``.
    affine
        4x4, voxel index to RAS+ millimetres.
    channel_first
        Whether the first axis is that of the channels; an image without one, (X, Y, Z), has one channel.
    prepare
        Applied to each slab (C, X, Y, Z) float32 as it is read, such as a scaling of intensities. It must
        treat every voxel by itself: it never sees the whole image.
    name
        Name of the image in messages.
    """

    def __init__(
        self,
        data: Any,
        affine: np.ndarray | Tensor | None = None,
        *,
        channel_first: bool = True,
        prepare: Callable[[Tensor], Tensor] | None = None,
        name: Path | str | None = None,
    ) -> None:
        self.data, self.prepare, self.name = data, prepare, name
        self.has_channels = channel_first
        self.affine = None if affine is None else np.asarray(affine, np.float64)

    @classmethod
    def open(cls, path: Path | str, prepare: Callable[[Tensor], Tensor] | None = None) -> Volume:
        """A NIfTI file, memory-mapped where it is not compressed."""
        image: Any = nib.load(path)
        return cls(image.dataobj, image.affine, channel_first=False, prepare=prepare, name=path)

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along the spatial axes."""
        return tuple(int(n) for n in (self.data.shape[1:] if self.has_channels else self.data.shape))

    @property
    def grid(self) -> Grid:
        """The voxel grid of a 3D volume.

        Raises
        ------
        StudyError
            If the image has no affine, or is not three-dimensional.
        """
        if self.affine is None or len(self.size) != 3:
            raise StudyError(
                "image-without-affine",
                "the image has no affine, so its voxels have no place in the patient",
                path=self.name,
                do="give a MetaTensor with an affine, or a Volume with one",
            )
        x, y, z = self.size
        return Grid((x, y, z), self.affine)

    def crop(self, box: tuple[slice, ...]) -> Volume:
        """A box of the image, in its position in the patient."""
        affine = None
        if self.affine is not None:
            affine = self.affine.copy()
            affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
        data = self.data[((slice(None), *box) if self.has_channels else box)]
        return Volume(data, affine, channel_first=self.has_channels, prepare=self.prepare, name=self.name)

    def read(self, axis: int, start: int, stop: int) -> Tensor:
        """Planes `start` to `stop` of a spatial axis, (C, ...) float32 on the image's device."""
        where = [slice(None)] * len(self.size)
        where[axis] = slice(start, stop)
        lead = (slice(None),) if self.has_channels else ()
        slab = self.data[(*lead, *where)]
        if not isinstance(slab, Tensor):
            slab = torch.from_numpy(np.ascontiguousarray(slab, dtype=np.float32))
        slab = slab.to(torch.float32)
        slab = slab if self.has_channels else slab[None]
        return slab if self.prepare is None else self.prepare(slab)


def as_volume(image: Tensor | Volume) -> Volume:
    """A tensor (C, X, Y[, Z]) as a volume from which windows are read."""
    if isinstance(image, Volume):
        return image
    if not isinstance(image, MetaTensor):
        return Volume(image)
    return Volume(image.as_tensor(), image.affine, name=image.meta.get("filename_or_obj"))


def pad(slab: Tensor, padding: Sequence[tuple[int, int]], mode: str, value: float) -> Tensor:
    """`slab` (C, ...) with (before, after) planes added along each spatial axis."""
    widths = [width for pair in reversed(padding) for width in pair]
    if not any(widths):
        return slab
    fill = {"value": value} if mode == "constant" else {}
    return F.pad(slab[None], widths, mode=mode, **fill)[0]
