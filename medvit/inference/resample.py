"""Linear interpolation of finished slabs between the network's grid and that of the results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.inference.copies import HostCopies
from medvit.inference.stream import Slab
from medvit.studies.study import Grid
from medvit.transforms.resample import SAME_VOXEL, LinearAxis


class SeparableBlock:
    """A box of target voxels, each axis of which follows one axis of the network's grid.

    Maps are in the order of the network's axes; `write` puts them into the order of the target's.
    """

    def __init__(
        self, axes: Sequence[LinearAxis], ranges: Sequence[slice], order: Sequence[int], slab: Slab
    ) -> None:
        self.axes, self.ranges, self.order, self.slab = axes, ranges, order, slab

    def class_maps(self) -> Iterator[Tensor]:
        """The interpolated map of each channel, one after the other."""
        return (maps[0] for maps in self._interpolated(1))

    def all_maps(self) -> Tensor:
        """The interpolated maps of all channels."""
        return next(self._interpolated(len(self.slab.sums)))

    def _interpolated(self, group: int) -> Iterator[Tensor]:
        spans = [axis.planes(r) for axis, r in zip(self.axes, self.ranges, strict=True)]
        source = self.slab.narrow(*spans[self.slab.axis])
        for a, (start, stop) in enumerate(spans):
            if a != self.slab.axis:
                source = source.narrow(a + 1, start, stop - start)
        for values in source.split(group):
            # From the last axis to the first: what grows the map most cheaply comes last.
            for a in reversed(range(len(spans))):
                values = self.axes[a].interpolate(values, a + 1, self.ranges[a], first=spans[a][0])
            yield values

    def write(self, out: Tensor | np.ndarray, values: Tensor, copies: HostCopies) -> None:
        """Write the reduced block (..., *block) to its place in `out` (..., *target shape)."""
        lead = values.ndim - len(self.order)
        values = values.permute(*range(lead), *(lead + a for a in self.order))
        where: tuple[Any, ...] = (..., *(self.ranges[a] for a in self.order))
        if isinstance(out, Tensor):
            out[where] = values
        else:
            copies.send(values, partial(out.__setitem__, where))


class ScatteredBlock:
    """Target voxels in any position, as where the target is oblique to the network's grid.

    Parameters
    ----------
    index
        (3, N), index of each voxel in the target.
    position
        (3, N) float64, where each lies in the padded image of the network, within its border.
    slab
        What is interpolated.
    """

    def __init__(self, index: Tensor, position: Tensor, slab: Slab) -> None:
        self.index, self.slab = index, slab
        size = torch.tensor(slab.sums.shape[1:], dtype=torch.float64)
        first = torch.zeros(3, dtype=torch.float64)
        first[slab.axis] = slab.first
        scale = (2 / (size - 1).clamp(min=1)).to(position.device)[:, None]
        unit = (position - first.to(position.device)[:, None]) * scale - 1
        self.grid = unit.flip(0).T.float()[None, None, None]

    def class_maps(self) -> Iterator[Tensor]:
        """The interpolated values (N,) of each channel, one after the other."""
        return (self._sampled(channel[None])[0] for channel in self.slab.sums)

    def all_maps(self) -> Tensor:
        """The interpolated values (C, N) of all channels."""
        return self._sampled(self.slab.sums)

    def _sampled(self, channels: Tensor) -> Tensor:
        sampled = F.grid_sample(channels[None], self.grid, padding_mode="border", align_corners=True)
        return sampled[0, :, 0, 0]

    def write(self, out: Tensor | np.ndarray, values: Tensor, copies: HostCopies) -> None:
        """Write the reduced voxels (..., N) to their places in `out` (..., *target shape)."""
        if isinstance(out, Tensor):
            out[(..., *self.index.to(out.device))] = values.to(out.device, out.dtype)
        else:
            copies.send(values, partial(out.__setitem__, (..., *self.index.cpu().numpy())))


Block = SeparableBlock | ScatteredBlock


class SeparableMap:
    """From the network's grid to a target whose axes differ only in order, direction and spacing."""

    def __init__(self, axes: Sequence[LinearAxis], order: Sequence[int]) -> None:
        self.axes, self.order = axes, order
        self.exact = all(axis.exact for axis in axes)
        self.kind = "same voxels" if self.exact else "axis-aligned"
        #: Whether any voxel of the target lies in the image.
        self.meet = all(axis.inside.stop > axis.inside.start for axis in axes)

    def blocks(self, slab: Slab, most: int) -> Iterator[Block]:
        """The target voxels that can first be computed from this slab, at most `most` per block."""
        along = self.axes[slab.axis]
        upper = along.upper[along.inside]
        ready = along.inside.start + np.flatnonzero((upper >= slab.start) & (upper < slab.stop))
        ranges = [axis.inside for axis in self.axes]
        if not len(ready):
            return
        ranges[slab.axis] = slice(int(ready[0]), int(ready[-1]) + 1)
        whole, *plane = ranges
        voxels = math.prod(r.stop - r.start for r in plane)
        thickness = max(most // max(voxels, 1), 1)
        for start in range(whole.start, whole.stop if voxels else whole.start, thickness):
            block = slice(start, min(start + thickness, whole.stop))
            yield SeparableBlock(self.axes, (block, *plane), self.order, slab)


class ObliqueMap:
    """From the network's grid to a target that is rotated or sheared against it."""

    exact = False
    kind = "oblique"

    def __init__(self, matrix: np.ndarray, size: Sequence[int], offset: Sequence[int], target: Grid) -> None:
        self.matrix, self.target = matrix, target
        self.size, self.offset = np.array(size), np.array(offset)
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in target.shape])).reshape(3, -1)
        reached = matrix[:3, :3] @ corners + matrix[:3, 3:]
        self.meet = bool(((reached.max(1) >= 0) & (reached.min(1) <= self.size - 1)).all())

    def blocks(self, slab: Slab, most: int) -> Iterator[Block]:
        """The target voxels that can first be computed from this slab, at most `most` per block."""
        device = slab.sums.device
        # Along the target's axis that follows the streaming axis most, a slab meets the fewest planes.
        walk = int(np.argmax(np.abs(self.matrix[slab.axis, :3])))
        matrix, size = torch.from_numpy(self.matrix).to(device), torch.from_numpy(self.size).to(device)
        offset = torch.from_numpy(self.offset).to(device)
        for planes in self._reached(slab, walk, most):
            ranges = [torch.arange(n, device=device) for n in self.target.shape]
            ranges[walk] = torch.arange(planes.start, planes.stop, device=device)
            index = torch.stack([i.flatten() for i in torch.meshgrid(*ranges, indexing="ij")])
            position = matrix[:3, :3] @ index.double() + matrix[:3, 3:]
            centre = (size[:, None] - 1) / 2
            within = ((position - centre).abs() <= size[:, None] / 2 + SAME_VOXEL).all(0)
            position = torch.minimum(position.clamp(min=0), size[:, None] - 1) + offset[:, None]
            upper = position[slab.axis].ceil()
            ready = (within & (upper >= slab.start) & (upper < slab.stop)).nonzero()[:, 0]
            if len(ready):
                yield ScatteredBlock(index[:, ready], position[:, ready], slab)

    def _reached(self, slab: Slab, walk: int, most: int) -> Iterator[range]:
        """Planes of the target, in chunks, that the slab may touch."""
        row, shape = self.matrix[slab.axis], self.target.shape
        reach = [np.array([0, row[a] * (n - 1)]) for a, n in enumerate(shape) if a != walk]
        lowest, highest = (sum(f(r) for r in reach) for f in (np.min, np.max))
        centre = row[walk] * np.arange(shape[walk]) + row[3] + self.offset[slab.axis]
        first, last = slab.start - 1, slab.stop
        # Voxels within half a voxel outside the border are clamped onto it.
        touched = np.flatnonzero((centre + highest >= first - 0.51) & (centre + lowest <= last + 0.51))
        plane = int(np.prod([n for a, n in enumerate(shape) if a != walk]))
        thickness = max(most // plane, 1)
        # What is touched is one run of planes.
        for start in range(int(touched[0]), int(touched[-1]) + 1, thickness) if len(touched) else ():
            yield range(start, min(start + thickness, int(touched[-1]) + 1))


GridMap = SeparableMap | ObliqueMap


def part_of_grid(
    part: Sequence[int], whole: Sequence[int], start: Sequence[int], offset: Sequence[int]
) -> GridMap:
    """Voxels of an image of any number of axes, out of a part of it that was padded.

    Parameters
    ----------
    part, whole
        Voxels of the part and of the image along each axis.
    start
        Index in the image of the first voxel of the part.
    offset
        Planes that padding put before the part along each axis.
    """
    sizes = zip(part, whole, start, offset, strict=True)
    axes = [
        LinearAxis(1.0, -float(first), inputs, outputs, before) for inputs, outputs, first, before in sizes
    ]
    return SeparableMap(axes, range(len(axes)))


def map_grids(network: Grid, target: Grid, offset: Sequence[int] = (0, 0, 0)) -> GridMap:
    """The map by which voxels of `target` read the network's grid.

    Parameters
    ----------
    network
        The grid of the preprocessed image.
    target
        The grid to which results go.
    offset
        Planes that padding to the window's size put before the image along each axis.

    Raises
    ------
    ValueError
        If an affine cannot be inverted.
    """
    if min(abs(np.linalg.det(g.affine[:3, :3])) for g in (network, target)) == 0:
        raise ValueError("an affine that maps voxels to millimetres is singular: the grid has no volume")
    matrix = np.linalg.solve(np.asarray(network.affine, np.float64), np.asarray(target.affine, np.float64))
    follows = np.abs(matrix[:3, :3]).argmax(axis=1)
    stray = matrix[:3, :3].copy()
    stray[np.arange(3), follows] = 0
    # Largest shift, in voxels, that the axes ignored by a separable map may cause.
    drift = (np.abs(stray) @ (np.array(target.shape) - 1)).max()
    if drift > SAME_VOXEL or len(set(follows)) < 3:
        return ObliqueMap(matrix, network.shape, offset, target)
    axes = [
        LinearAxis(float(matrix[a, f]), float(matrix[a, 3]), network.shape[a], target.shape[f], offset[a])
        for a, f in enumerate(follows)
    ]
    return SeparableMap(axes, [int(a) for a in np.argsort(follows)])
