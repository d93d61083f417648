"""Where windows read their voxels: an image in memory, or one on disk that is read slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.errors import StudyError
from medvit.studies.study import Grid


class Volume:
    """A channel-first image that is read along one axis.

    Parameters
    ----------
    data
        Anything with a shape that gives an array when sliced, (C, X, Y, Z): a tensor, an array,
        `numpy.memmap`, or nibabel's ``image.dataobj``.
    affine
        4x4, voxel index to RAS+ millimetres.
    channel_first
        Whether the first axis is that of the channels; an image without one, (X, Y, Z), has one channel.
    prepare
        Applied to each slab (C, X, Y, Z) float32 as it is read, such as a scaling of intensities. It must
        treat every voxel by itself: it never sees the whole image.
    name
        What messages call the image.
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
        """The voxel grid of a 3D volume."""
        if self.affine is None or len(self.size) != 3:
            raise StudyError(
                "image-without-affine",
                "the image has no affine, so its voxels have no place in the patient",
                path=self.name,
                do="give a MetaTensor with an affine, or a Volume with one",
            )
        x, y, z = self.size
        return Grid((x, y, z), self.affine)

    def read(self, axis: int, start: int, stop: int) -> Tensor:
        """Planes `start` to `stop` of a spatial axis, (C, ...) float32 on the image's device.

        Raises
        ------
        StudyError
            If a voxel is not a finite number.
        """
        where = [slice(None)] * len(self.size)
        where[axis] = slice(start, stop)
        lead = (slice(None),) if self.has_channels else ()
        slab = self.data[(*lead, *where)]
        if not isinstance(slab, Tensor):
            slab = torch.from_numpy(np.ascontiguousarray(slab, dtype=np.float32))
        slab = slab.to(torch.float32)
        slab = slab if self.has_channels else slab[None]
        if self.prepare is not None:
            slab = self.prepare(slab)
        if not torch.isfinite(slab.sum()):
            raise StudyError(
                "image-not-finite",
                "the image holds voxels that are NaN or infinite",
                path=self.name,
                do="repair the image, for example by replacing them with the value of air",
            )
        return slab


def pad(slab: Tensor, padding: Sequence[tuple[int, int]], mode: str, value: float) -> Tensor:
    """`slab` (C, ...) with (before, after) planes added along each spatial axis."""
    widths = [width for pair in reversed(padding) for width in pair]
    if not any(widths):
        return slab
    fill = {"value": value} if mode == "constant" else {}
    return F.pad(slab[None], widths, mode=mode, **fill)[0]
