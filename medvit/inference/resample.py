"""Linear interpolation between voxel grids: finished slabs to the study's grid, and images to a spacing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.data.utils import compute_shape_offset, zoom_affine
from monai.transforms import Spacing
from torch import Tensor

from medvit.inference.accumulate import Slab
from medvit.studies.study import Grid

# Grids whose voxels lie closer than this (in voxels) are taken as the same; float32 headers are no better.
_SAME_VOXEL = 1e-3
# Voxels of one class that are interpolated and reduced at once: small enough to stay in the cache.
_BLOCK_VOXELS = 1 << 17
# Outputs of one matrix product; of a longer axis most of the interpolation matrix would be zeros.
_BAND = 32


class LinearAxis:
    """Linear interpolation along one axis: output i reads the input at ``scale * i + shift``.

    Parameters
    ----------
    scale, shift
        The map from output to input index.
    inputs, outputs
        Voxels along the axis. Positions up to half a voxel outside take the border's value; outputs that
        lie further out are not in `inside`.
    offset
        Planes that stand before input 0, as padding puts them there.
    """

    def __init__(self, scale: float, shift: float, inputs: int, outputs: int, offset: int = 0) -> None:
        position = scale * np.arange(outputs) + shift
        within = np.flatnonzero((position >= -0.5 - _SAME_VOXEL) & (position <= inputs - 0.5 + _SAME_VOXEL))
        self.inside = slice(int(within[0]), int(within[-1]) + 1) if len(within) else slice(0, 0)
        position = position.clip(0, inputs - 1)
        nearest = np.round(position)
        self.exact = bool(np.abs(position - nearest)[self.inside].max(initial=0) < _SAME_VOXEL)
        if self.exact:
            position = nearest
        self.lower = np.floor(position).astype(np.int64) + offset
        self.weight = position - np.floor(position)
        self.upper = self.lower + (self.weight > 0)
        self._matrices: dict[tuple[int, int], Tensor] = {}

    def interpolate(self, x: Tensor, dim: int, outputs: slice, first: int = 0) -> Tensor:
        """Outputs of the range `outputs` along `dim` of `x`, whose plane 0 is input plane `first`."""
        lower = torch.from_numpy(self.lower[outputs] - first).to(x.device)
        if self.exact:
            return self._pick(x, dim, lower)
        if dim == x.ndim - 1:
            starts = range(outputs.start, outputs.stop, _BAND)
            bands = [slice(start, min(start + _BAND, outputs.stop)) for start in starts]
            return torch.cat([self._product(x, band, first) for band in bands], dim)
        upper = torch.from_numpy(self.upper[outputs] - first).to(x.device)
        weight = torch.from_numpy(self.weight[outputs]).to(x).reshape(-1, *[1] * (x.ndim - 1 - dim))
        return torch.lerp(x.index_select(dim, lower), x.index_select(dim, upper), weight)

    def planes(self, outputs: slice) -> tuple[int, int]:
        """First and one past the last input plane that the outputs read."""
        return int(self.lower[outputs].min()), int(self.upper[outputs].max()) + 1

    def _pick(self, x: Tensor, dim: int, index: Tensor) -> Tensor:
        if (index.diff() == 1).all():
            return x.narrow(dim, int(index[0]), len(index))
        return x.index_select(dim, index)

    def _product(self, x: Tensor, outputs: slice, first: int) -> Tensor:
        """Interpolation along the last dimension, where a matrix product beats gathering single voxels."""
        start, stop = self.planes(outputs)
        band = (outputs.start, outputs.stop)
        if band not in self._matrices:
            self._matrices[band] = self._matrix(outputs, start, stop)
        return x.narrow(-1, start - first, stop - start) @ self._matrices[band].to(x.device)

    def _matrix(self, outputs: slice, start: int, stop: int) -> Tensor:
        """(inputs, outputs) float32 weights."""
        lower, upper, weight = self.lower[outputs], self.upper[outputs], self.weight[outputs]
        columns = np.arange(len(lower))
        matrix = np.zeros((stop - start, len(lower)), np.float32)
        matrix[lower - start, columns] = 1 - weight
        matrix[upper - start, columns] += weight
        return torch.from_numpy(matrix)


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
        spans = [axis.planes(r) for axis, r in zip(self.axes, self.ranges, strict=True)]
        source = self.slab.narrow(*spans[self.slab.axis])
        for a, (start, stop) in enumerate(spans):
            if a != self.slab.axis:
                source = source.narrow(a + 1, start, stop - start)
        for values in source:
            # From the last axis to the first: what grows the map most cheaply comes last.
            for a in reversed(range(values.ndim)):
                values = self.axes[a].interpolate(values, a, self.ranges[a], first=spans[a][0])
            yield values

    def write(self, out: np.ndarray, values: Tensor) -> None:
        """Put the reduced block, (..., *block), to its place in `out` (..., *target shape)."""
        lead = values.ndim - len(self.order)
        values = values.permute(*range(lead), *(lead + a for a in self.order))
        where: tuple[Any, ...] = (..., *(self.ranges[a] for a in self.order))
        out[where] = values.cpu().numpy()


class ScatteredBlock:
    """Target voxels in any position, as where the target is oblique to the network's grid.

    Parameters
    ----------
    index
        Index of each voxel in the target, one array an axis.
    position
        (N, 3) float64, where each lies in the padded image of the network, within its border.
    slab
        What is interpolated.
    """

    def __init__(self, index: tuple[np.ndarray, ...], position: np.ndarray, slab: Slab) -> None:
        self.index, self.slab = index, slab
        along = slab.axis
        self.start = int(np.floor(position[:, along].min()))
        self.stop = int(np.ceil(position[:, along].max())) + 1
        size = np.array(slab.sums.shape[1:])
        size[along] = self.stop - self.start
        local = position.copy()
        local[:, along] -= self.start
        unit = local * (2 / np.maximum(size - 1, 1)) - 1
        grid = torch.from_numpy(unit[:, ::-1].astype(np.float32)).to(slab.sums.device)
        self.grid = grid[None, None, None]

    def class_maps(self) -> Iterator[Tensor]:
        """The interpolated values (N,) of each channel, one after the other."""
        source = self.slab.narrow(self.start, self.stop)
        group = max(_BLOCK_VOXELS // self.grid.shape[3], 1)
        for channels in source.split(group):
            sampled = F.grid_sample(channels[None], self.grid, padding_mode="border", align_corners=True)
            yield from sampled[0, :, 0, 0]

    def write(self, out: np.ndarray, values: Tensor) -> None:
        """Put the reduced voxels (..., N) to their places in `out` (..., *target shape)."""
        where: tuple[Any, ...] = (..., *self.index)
        out[where] = values.cpu().numpy()


Block = SeparableBlock | ScatteredBlock


class SeparableMap:
    """From the network's grid to a target whose axes are the same but for order, direction and spacing."""

    def __init__(self, axes: Sequence[LinearAxis], order: Sequence[int]) -> None:
        self.axes, self.order = axes, order
        self.exact = all(axis.exact for axis in axes)
        self.kind = "same voxels" if self.exact else "axis-aligned"

    def blocks(self, slab: Slab) -> Iterator[Block]:
        """The target voxels that can be computed from this slab and from no earlier one."""
        along = self.axes[slab.axis]
        upper = along.upper[along.inside]
        ready = along.inside.start + np.flatnonzero((upper >= slab.start) & (upper < slab.stop))
        ranges = [axis.inside for axis in self.axes]
        if not len(ready):
            return
        ranges[slab.axis] = slice(int(ready[0]), int(ready[-1]) + 1)
        whole, *plane = ranges
        voxels = math.prod(r.stop - r.start for r in plane)
        thickness = max(_BLOCK_VOXELS // max(voxels, 1), 1)
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

    def blocks(self, slab: Slab) -> Iterator[Block]:
        """The target voxels that can be computed from this slab and from no earlier one."""
        shape = self.target.shape
        # Along the target's axis that follows the streaming axis most, a slab meets the fewest planes.
        walk = int(np.argmax(np.abs(self.matrix[slab.axis, :3])))
        for planes in self._reached(slab, walk):
            ranges = [np.arange(n) for n in shape]
            ranges[walk] = planes
            index = np.stack([i.ravel() for i in np.meshgrid(*ranges, indexing="ij")])
            position = (self.matrix[:3, :3] @ index + self.matrix[:3, 3:]).T
            centre = (self.size - 1) / 2
            within = (np.abs(position - centre) <= self.size / 2 + _SAME_VOXEL).all(axis=1)
            position = position.clip(0, self.size - 1) + self.offset
            upper = np.ceil(position[:, slab.axis])
            ready = np.flatnonzero(within & (upper >= slab.start) & (upper < slab.stop))
            if len(ready):
                yield ScatteredBlock(tuple(index[:, ready]), position[ready], slab)

    def _reached(self, slab: Slab, walk: int) -> Iterator[np.ndarray]:
        """Planes of the target, in chunks, that the slab may touch."""
        row, shape = self.matrix[slab.axis], self.target.shape
        reach = [np.array([0, row[a] * (n - 1)]) for a, n in enumerate(shape) if a != walk]
        lowest, highest = (sum(f(r) for r in reach) for f in (np.min, np.max))
        centre = row[walk] * np.arange(shape[walk]) + row[3] + self.offset[slab.axis]
        first, last = slab.start - 1, slab.stop
        # Voxels within half a voxel outside the border are clamped onto it.
        touched = np.flatnonzero((centre + highest >= first - 0.51) & (centre + lowest <= last + 0.51))
        plane = int(np.prod([n for a, n in enumerate(shape) if a != walk]))
        thickness = max(_BLOCK_VOXELS // plane, 1)
        for start in range(0, len(touched), thickness):
            yield touched[start : start + thickness]


GridMap = SeparableMap | ObliqueMap


def same_grid(size: Sequence[int], offset: Sequence[int]) -> GridMap:
    """Voxels of an image of any number of axes to themselves, out of one padded by `offset` in front."""
    axes = [LinearAxis(1.0, 0.0, n, n, before) for n, before in zip(size, offset, strict=True)]
    return SeparableMap(axes, range(len(axes)))


def map_grids(network: Grid, target: Grid, offset: Sequence[int] = (0, 0, 0)) -> GridMap:
    """How the voxels of `target` read the network's grid.

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
    # What the axes that a separable map ignores would move a voxel by, at most, in voxels.
    drift = (np.abs(stray) @ (np.array(target.shape) - 1)).max()
    if drift > _SAME_VOXEL or len(set(follows)) < 3:
        return ObliqueMap(matrix, network.shape, offset, target)
    axes = [
        LinearAxis(float(matrix[a, f]), float(matrix[a, 3]), network.shape[a], target.shape[f], offset[a])
        for a, f in enumerate(follows)
    ]
    return SeparableMap(axes, [int(a) for a in np.argsort(follows)])


def resample_image(image: MetaTensor, spacing: Sequence[float]) -> MetaTensor:
    """An image at another spacing, by linear interpolation, on the grid of `monai.transforms.Spacing`.

    Parameters
    ----------
    image
        (C, X, Y, Z) with an affine in millimetres.
    spacing
        Distance between voxels along each axis in mm; a value of 0 or below keeps an axis as it is.

    Returns
    -------
    MetaTensor
        (C, X', Y', Z') float32 with the new affine. Border voxels are repeated outside, as MONAI does.
    """
    before = np.asarray(image.affine, np.float64)
    grid = _spacing_grid(image.shape[1:], before, spacing)
    matrix = np.linalg.solve(before, grid.affine)
    if np.abs(matrix[:3, :3] - np.diag(np.diag(matrix)[:3])).max() * max(grid.shape) > _SAME_VOXEL:
        # A sheared grid becomes orthogonal: no axis stays by itself.
        return cast(MetaTensor, Spacing(tuple(spacing), mode="bilinear", padding_mode="border")(image))
    values = image.as_tensor().to(torch.float32)
    for a, (inputs, outputs) in enumerate(zip(image.shape[1:], grid.shape, strict=True)):
        axis = LinearAxis(float(matrix[a, a]), float(matrix[a, 3]), inputs, outputs)
        values = axis.interpolate(values, a + 1, slice(0, outputs))
    meta = {**image.meta, "affine": torch.from_numpy(grid.affine)}
    return MetaTensor(values, meta=meta)


def _spacing_grid(shape: Sequence[int], affine: np.ndarray, spacing: Sequence[float]) -> Grid:
    present = np.linalg.norm(affine[:3, :3], axis=0)
    wanted = np.array([s if s > 0 else p for s, p in zip(spacing, present, strict=True)])
    zoomed = zoom_affine(affine, wanted, diagonal=False)
    size, offset = compute_shape_offset(shape, affine, zoomed)
    zoomed[:3, 3] = offset[:3]
    x, y, z = (int(n) for n in size)
    return Grid((x, y, z), zoomed)
