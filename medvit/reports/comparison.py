"""Slices of an image before and after its restoration, and the difference between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from medvit.metrics.difference import Difference
from medvit.reports.display import NORMAL_AXIS, PLANES, Display, Plane, to_grey
from medvit.reports.image_quality import ImageQuality
from medvit.reports.orientation import to_display_order
from medvit.reports.pictures import Picture, draw_slice
from medvit.studies.study import Grid

Role = Literal["before", "after", "difference", "inconsistency"]

# Where slices are cut, as shares of the volume from head to feet.
_AXIAL = (0.3, 0.5, 0.7)
# Standard deviation in voxels of the filter that takes noise out of a deviation from measured slices.
_NOISE_FREE = 1.5


@dataclass(frozen=True)
class Restoration:
    """Image quality before and after a restoration (denoising, super-resolution), and the image before.

    Parameters
    ----------
    before, after
        Image quality.
    source
        (X, Y, Z) image before, on the grid of the restored one.
    inconsistency
        Of an estimate on a finer grid and of `source`: the slices that each would give minus the measured
        ones, as (X, Y, Z) maps. `None` where the grid is that of the study.
    difference
        Assessment of the removed part of the image, where the grid is that of the study.
    """

    before: ImageQuality
    after: ImageQuality
    source: np.ndarray
    inconsistency: tuple[np.ndarray, np.ndarray] | None = None
    difference: Difference | None = None

    @property
    def deviations(self) -> tuple[float, float] | None:
        """Root of the mean squared inconsistency before and after, in the unit of the image."""
        if self.inconsistency is None:
            return None
        after, before = (float(np.sqrt(np.mean(np.square(m)))) for m in self.inconsistency)
        return before, after


def contradiction(image: np.ndarray, inconsistency: np.ndarray, mask: np.ndarray) -> float:
    """Deviation of an estimate from the measured slices, noise apart, as a share of the spread of the image.

    Parameters
    ----------
    image, inconsistency
        (X, Y, Z) estimate on a finer grid, and the slices that it would give minus the measured ones.
    mask
        Voxels that count.

    Returns
    -------
    float
        Root of the mean squared smoothed deviation over the standard deviation of the image; 0 where nothing
        counts.
    """
    spread = float(image[mask].std(dtype=np.float64)) if mask.any() else 0.0
    if spread == 0:
        return 0.0
    smooth = gaussian_filter(inconsistency.astype(np.float32), _NOISE_FREE)[mask]
    return float(np.sqrt(np.square(smooth, dtype=np.float64).mean())) / spread


@dataclass(frozen=True)
class Comparison:
    """Pictures in threes: before, after, difference; and of a finer grid the inconsistency.

    Parameters
    ----------
    pictures
        Pictures, each with its role.
    span
        Difference that is drawn white; its negative is black, and no difference is mid-grey.
    """

    pictures: tuple[tuple[Role, Picture], ...]
    span: float


def compare(
    before: np.ndarray,
    after: Display,
    restored: np.ndarray,
    grid: Grid,
    inconsistency: np.ndarray | None = None,
) -> Comparison:
    """Axial slices at three heights and the middle one of each other plane, each drawn in every role.

    Parameters
    ----------
    before, restored
        (X, Y, Z) intensities on `grid`.
    after
        Display of the whole of `restored`; `before` is drawn in the same window.
    inconsistency
        (X, Y, Z) deviation from the measured slices, drawn in the window of the difference.
    """
    difference = restored - before
    sample = np.abs(difference.reshape(-1)[:: max(1, difference.size // 1_000_000)])
    span = float(np.percentile(sample[sample > 0], 99)) if np.any(sample > 0) else 1.0
    turned = {"before": (before, after.window), "difference": (difference, (-span, span))}
    roles: tuple[Role, ...] = ("before", "after", "difference")
    if inconsistency is not None:
        turned["inconsistency"] = (inconsistency, (-span, span))
        roles = (*roles, "inconsistency")
    displays = {
        "after": after,
        **{
            role: replace(after, grey=to_grey(to_display_order(values, grid)[0], window))
            for role, (values, window) in turned.items()
        },
    }
    pictures = [
        (role, Picture(draw_slice(displays[role], plane, index, 420), plane, index + 1))
        for plane, index in _places(after.grey.shape)
        for role in roles
    ]
    return Comparison(tuple(pictures), span)


def _places(shape: tuple[int, ...]) -> list[tuple[Plane, int]]:
    """Slices to show; a flat volume is cut in one plane only."""
    places: list[tuple[Plane, int]] = []
    for plane in PLANES:
        if min(np.delete(shape, NORMAL_AXIS[plane])) == 1:
            continue
        depth = shape[NORMAL_AXIS[plane]]
        shares = _AXIAL if plane == "axial" else (0.5,)
        places += [(plane, index) for index in sorted({int(share * depth) for share in shares})]
    return places
