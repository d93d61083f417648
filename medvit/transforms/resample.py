"""Linear interpolation along axes, images at another spacing, and label maps on another grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import compute_shape_offset, zoom_affine
from monai.transforms import MapTransform, Spacing
from torch import Tensor

from medvit.studies.grids import between
from medvit.studies.study import Grid

# Grids whose voxels lie closer than this (in voxels) are taken as the same; float32 headers are no better.
SAME_VOXEL = 1e-3
# Outputs of one matrix product; of a longer axis most of the interpolation matrix would be zeros.
_BAND = 32


class ResampleImaged(MapTransform):
    """Linear interpolation to a spacing, on the grid of MONAI's ``Spacingd``.

    Along an axis whose voxels become larger, the image is first averaged over the new voxel's width: taking
    every second voxel of a finer image would alias its noise and edges into the result.

    Parameters
    ----------
    keys
        MetaTensors (C, X, Y, Z) with an affine in mm.
    spacing
        Along each axis, in mm.
    """

    def __init__(self, keys: KeysCollection, spacing: Sequence[float]) -> None:
        super().__init__(keys)
        self.spacing = tuple(spacing)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its images resampled."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = average_to_spacing(result[key], self.spacing)
        return result


def average_to_spacing(image: MetaTensor, spacing: Sequence[float]) -> MetaTensor:
    """An image (C, X, Y, Z) at another spacing, averaged first over voxels that become larger."""
    present = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    widths = [s / p for s, p in zip(spacing, present, strict=True)]
    return resample_image(MetaTensor(average(image.as_tensor().float(), widths), meta=image.meta), spacing)


def average(image: Tensor, widths: Sequence[float]) -> Tensor:
    """(C, X, Y, Z) averaged over a box of `widths` voxels (below 1: as it is), the border repeated."""
    for axis, width in enumerate(widths, start=1):
        if width <= 1.001 or image.shape[axis] == 1:
            continue
        radius = int(np.ceil((width - 1) / 2))
        offsets = range(-radius, radius + 1)
        shares = [min(max(width / 2 + 0.5 - abs(offset), 0.0), 1.0) / width for offset in offsets]
        length = image.shape[axis]
        ends = [0] * (2 * image.ndim - 2)
        ends[-2 * axis] = ends[-2 * axis + 1] = radius
        padded = F.pad(image[None], ends, mode="replicate")[0]
        # Sums of shifted views: a convolution would copy the image to put the axis last, and back.
        averaged = padded.narrow(axis, 0, length) * shares[0]
        for start, share in enumerate(shares[1:], start=1):
            averaged.add_(padded.narrow(axis, start, length), alpha=share)
        image = averaged
    return image


def resample_labels(labels: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """A label map on another grid: each voxel takes the label with the largest share.

    Parameters
    ----------
    labels
        (X, Y, Z) on `source`.

    Returns
    -------
    numpy.ndarray
        Label map on `target`, of the same type.
    """
    if source.matches(target):
        return labels
    from scipy.ndimage import affine_transform, find_objects

    to_source = between(target, source)
    widths = np.abs(to_source[:3, :3]).max(axis=1)
    result = np.zeros(target.shape, labels.dtype)
    largest, background = np.zeros(target.shape, np.float32), np.ones(target.shape, np.float32)
    for value, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        here, there = _boxes(box, widths, labels.shape, to_source, target.shape)
        mask = torch.from_numpy((labels[here] == value).astype(np.float32))[None]
        first = [part.start for part in there]
        offset = to_source[:3, :3] @ first + to_source[:3, 3] - [part.start for part in here]
        share = affine_transform(
            average(mask, widths.tolist())[0].numpy(), to_source[:3, :3], offset,
            [part.stop - part.start for part in there], order=1, mode="nearest",
        )  # fmt: skip
        won = share > largest[there]
        result[there][won] = value
        largest[there][won] = share[won]
        background[there] -= share
    result[background > largest] = 0
    return result


def _boxes(
    box: tuple[slice, ...],
    widths: np.ndarray,
    shape: tuple[int, ...],
    to_source: np.ndarray,
    target_shape: tuple[int, ...],
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """A structure's box with the room that averaging needs, and the part of the target that it reaches."""
    margin = np.ceil(widths).astype(int) + 1
    low = np.maximum([part.start for part in box] - margin, 0)
    high = np.minimum([part.stop for part in box] + margin, shape)
    corners = np.array(np.meshgrid(*zip(low, high - 1, strict=True))).reshape(3, -1)
    reached = np.linalg.inv(to_source) @ np.vstack([corners, np.ones(corners.shape[1])])
    start = np.clip(np.floor(reached[:3].min(axis=1)).astype(int) - 1, 0, target_shape)
    stop = np.clip(np.ceil(reached[:3].max(axis=1)).astype(int) + 2, start, target_shape)
    here, there = (tuple(map(slice, a.tolist(), b.tolist())) for a, b in ((low, high), (start, stop)))
    return here, there


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
    if np.abs(matrix[:3, :3] - np.diag(np.diag(matrix)[:3])).max() * max(grid.shape) > SAME_VOXEL:
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
        within = np.flatnonzero((position >= -0.5 - SAME_VOXEL) & (position <= inputs - 0.5 + SAME_VOXEL))
        self.inside = slice(int(within[0]), int(within[-1]) + 1) if len(within) else slice(0, 0)
        position = position.clip(0, inputs - 1)
        nearest = np.round(position)
        self.exact = bool(np.abs(position - nearest)[self.inside].max(initial=0) < SAME_VOXEL)
        if self.exact:
            position = nearest
        self.lower = np.floor(position).astype(np.int64) + offset
        self.weight = position - np.floor(position)
        self.upper = self.lower + (self.weight > 0)
        # Whether output i + 1 reads the plane after that of output i: such a run is a slice of the input.
        self._runs = self.exact & (np.diff(self.lower) == 1)
        self._matrices: dict[tuple[int, int], Tensor] = {}
        self._held: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def interpolate(self, x: Tensor, dim: int, outputs: slice, first: int = 0) -> Tensor:
        """Outputs of the range `outputs` along `dim` of `x`, whose plane 0 is input plane `first`."""
        if self._runs[outputs.start : outputs.stop - 1].all() and self.exact:
            return x.narrow(dim, int(self.lower[outputs.start]) - first, outputs.stop - outputs.start)
        if not self.exact and dim == x.ndim - 1 and x.device.type == "cpu":
            starts = range(outputs.start, outputs.stop, _BAND)
            bands = [slice(start, min(start + _BAND, outputs.stop)) for start in starts]
            return torch.cat([self._product(x, band, first) for band in bands], dim)
        lower, upper, weight = (held[outputs] for held in self._on(x.device))
        if first:
            lower, upper = lower - first, upper - first
        if self.exact:
            return x.index_select(dim, lower)
        weight = weight.reshape(-1, *[1] * (x.ndim - 1 - dim))
        return torch.lerp(x.index_select(dim, lower), x.index_select(dim, upper), weight)

    def planes(self, outputs: slice) -> tuple[int, int]:
        """First and one past the last input plane that the outputs read."""
        return int(self.lower[outputs].min()), int(self.upper[outputs].max()) + 1

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Lower and upper plane and the upper one's weight of each output, copied to a device once."""
        if device not in self._held:
            weight = torch.from_numpy(self.weight).float()
            lower, upper = torch.from_numpy(self.lower), torch.from_numpy(self.upper)
            self._held[device] = lower.to(device), upper.to(device), weight.to(device)
        return self._held[device]

    def _product(self, x: Tensor, outputs: slice, first: int) -> Tensor:
        """Interpolation along the last dimension, where a matrix product beats gathering single voxels."""
        start, stop = self.planes(outputs)
        band = (outputs.start, outputs.stop)
        if band not in self._matrices:
            self._matrices[band] = self._matrix(outputs, start, stop)
        return x.narrow(-1, start - first, stop - start) @ self._matrices[band]

    def _matrix(self, outputs: slice, start: int, stop: int) -> Tensor:
        """(inputs, outputs) float32 weights."""
        lower, upper, weight = self.lower[outputs], self.upper[outputs], self.weight[outputs]
        columns = np.arange(len(lower))
        matrix = np.zeros((stop - start, len(lower)), np.float32)
        matrix[lower - start, columns] = 1 - weight
        matrix[upper - start, columns] += weight
        return torch.from_numpy(matrix)
