"""Distances between the surfaces of two masks, in millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from medvit.metrics.masks import Mask, common_box, mask_pair

# Headers hold spacings in single precision, so that three voxels of 0.8 mm are a hair more than 2.4 mm.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between the border voxels of two masks.

    Where both masks are empty, everything below is ``nan``; where only one is, distances are infinite and
    the surface Dice is 0.

    Parameters
    ----------
    from_prediction
        (border voxels of the prediction,) distance of each to the border of the reference, in mm.
    from_reference
        The same the other way round.
    """

    from_prediction: NDArray[np.float64]
    from_reference: NDArray[np.float64]

    @property
    def both(self) -> NDArray[np.float64]:
        """The distances of both directions."""
        return np.concatenate([self.from_prediction, self.from_reference])

    def hausdorff(self, percentile: float = 100) -> float:
        """The larger of the two directions' percentiles, in mm; 95 is known as HD95."""
        directions = [d for d in (self.from_prediction, self.from_reference) if d.size]
        return max((float(_percentile(d, percentile)) for d in directions), default=float("nan"))

    @property
    def hd95(self) -> float:
        """95th percentile of the Hausdorff distance, in mm."""
        return self.hausdorff(95)

    @property
    def assd(self) -> float:
        """Average symmetric surface distance: the mean over the border voxels of both masks, in mm."""
        return float(self.both.mean()) if self.both.size else float("nan")

    def dice(self, tolerance: float) -> float:
        """Share of both borders that lies within `tolerance` mm of the other, 0 to 1.

        After Nikolov et al., Clinically applicable segmentation of head and neck anatomy for radiotherapy,
        JMIR 2021, with border voxels counted in place of areas of surface elements.
        """
        return float((self.both <= tolerance + _ROUNDING).mean()) if self.both.size else float("nan")


def surface_distances(prediction: ArrayLike, reference: ArrayLike, spacing: ArrayLike) -> SurfaceDistances:
    """The distance of every border voxel of each mask to the nearest border voxel of the other.

    A voxel belongs to the border if a neighbour across a face is not in the mask, or outside the image. The
    search runs over border voxels alone, in the box that holds both masks.

    Parameters
    ----------
    prediction, reference
        Masks of one shape, any number of axes.
    spacing
        (axes,) mm between voxels along each axis; or (axes, axes), the step of each axis in mm as columns,
        as in the upper left of an affine, for grids that are sheared.

    Raises
    ------
    ValueError
        If the shapes differ, a mask holds other values than 0 and 1, or `spacing` does not fit.
    """
    a, b = mask_pair(prediction, reference)
    steps = _steps(spacing, a.ndim)
    box = common_box(a, b)
    points = [_border_points(mask[box]) @ steps.T for mask in (a, b)]
    if not all(len(p) for p in points):
        # To an empty mask, every distance is infinite.
        return SurfaceDistances(*(np.full(len(p), np.inf) for p in points))
    ours, theirs = points
    return SurfaceDistances(_nearest(ours, theirs), _nearest(theirs, ours))


def hd95(prediction: ArrayLike, reference: ArrayLike, spacing: ArrayLike) -> float:
    """95th percentile of the Hausdorff distance in mm; see `surface_distances` for arguments and errors.

    ``nan`` where both masks are empty, infinite where one is.
    """
    return surface_distances(prediction, reference, spacing).hd95


def assd(prediction: ArrayLike, reference: ArrayLike, spacing: ArrayLike) -> float:
    """Average symmetric surface distance in mm; arguments and empty masks as in `hd95`."""
    return surface_distances(prediction, reference, spacing).assd


def surface_dice(
    prediction: ArrayLike, reference: ArrayLike, spacing: ArrayLike, *, tolerance: float
) -> float:
    """Share of the borders within `tolerance` mm of each other; see `SurfaceDistances.dice`.

    ``nan`` where both masks are empty, 0 where one is.
    """
    return surface_distances(prediction, reference, spacing).dice(tolerance)


def _steps(spacing: ArrayLike, ndim: int) -> NDArray[np.float64]:
    steps = np.asarray(spacing, dtype=np.float64)
    steps = np.diag(steps) if steps.ndim == 1 else steps
    if steps.shape != (ndim, ndim) or not np.isfinite(steps).all() or np.linalg.det(steps) == 0:
        raise ValueError(f"spacing must be {ndim} lengths in mm or {ndim} x {ndim} steps, not {spacing!r}")
    return steps


def _nearest(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    # Voxels fill space evenly, so neither balancing nor tight boxes are worth their time.
    tree = KDTree(others, leafsize=32, balanced_tree=False, compact_nodes=False)
    return tree.query(points)[0]


def _border_points(mask: Mask) -> NDArray[np.intp]:
    """(border voxels, axes) indices; np.argwhere takes ten times as long."""
    return np.stack(np.unravel_index(np.flatnonzero(_border(mask)), mask.shape), axis=1)


def _border(mask: Mask) -> Mask:
    inside = mask.copy()
    for axis in range(mask.ndim):
        along = np.moveaxis(inside, axis, 0)
        source = np.moveaxis(mask, axis, 0)
        along[1:] &= source[:-1]
        along[:-1] &= source[1:]
        along[:1] = along[-1:] = False
    return mask & ~inside


def _percentile(distances: NDArray[np.float64], percentile: float) -> float:
    # Between infinite values, interpolation would give NaN.
    return float(distances[0]) if np.isinf(distances[0]) else float(np.percentile(distances, percentile))
