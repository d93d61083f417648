"""Region maps of an image, for networks that attend by region: from superpixels, or given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.segmentation import felzenszwalb, slic

RegionMap = NDArray[np.int32]


def grey_levels(image: ArrayLike) -> NDArray[np.float32]:
    """An image (C, H, W) as (H, W, C) in [0, 1].

    The outermost 0.5 % are clipped, so that a few bright pixels (metal) do not compress the rest.

    Raises
    ------
    ValueError
        If the image is not (C, H, W) or holds values that are not finite.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 3 or values.size == 0:
        raise ValueError(f"regions need an image (C, H, W), not {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("the image holds values that are not finite: replace them before making regions")
    low, high = np.percentile(values, (0.5, 99.5))
    scaled = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
    return np.moveaxis(scaled, 0, -1).astype(np.float32)


def slic_regions(
    image: ArrayLike, *, n_segments: int = 100, compactness: float = 0.1, sigma: float = 1.0
) -> RegionMap:
    """Superpixels of about equal size, so that the cost of region attention is bounded and known in advance.

    Parameters
    ----------
    image
        Image (C, H, W) in any unit.
    n_segments
        Approximate number of regions; fewer may result.
    compactness
        Weight of distance relative to intensity (grey levels in [0, 1]).
    sigma
        Gaussian smoothing before, in pixels.

    Returns
    -------
    numpy.ndarray
        Region numbers (H, W), from 1.

    References
    ----------
    Achanta et al.: SLIC superpixels compared to state-of-the-art superpixel methods, TPAMI 2012.
    """
    return slic(
        grey_levels(image),
        n_segments=n_segments,
        compactness=compactness,
        sigma=sigma,
        start_label=1,
        channel_axis=-1,
        convert2lab=False,
    ).astype(np.int32)


def felzenszwalb_regions(
    image: ArrayLike,
    *,
    scale: float = 100.0,
    sigma: float = 1.5,
    min_size: int = 50,
    max_regions: int = 1000,
) -> RegionMap:
    """Regions of any size and shape that follow edges; the closest to SAM's without a network.

    Parameters
    ----------
    image
        Image (C, H, W) in any unit.
    scale
        How readily regions merge. It is lowered while a varied image would be a single region, and raised
        (with `min_size`) while there would be more than `max_regions`.
    sigma
        Gaussian smoothing before, in pixels.
    min_size, max_regions
        Smallest region in pixels, and largest number of regions.

    Returns
    -------
    numpy.ndarray
        Region numbers (H, W), from 1.

    Raises
    ------
    ValueError
        If `max_regions` is not positive.

    References
    ----------
    Felzenszwalb, Huttenlocher: Efficient graph-based image segmentation, IJCV 2004.
    """
    if max_regions < 1:
        raise ValueError(f"max_regions must be positive, not {max_regions}")
    grey = grey_levels(image)
    varied = bool(np.ptp(grey) > 0) and max_regions > 1
    while True:
        regions = felzenszwalb(grey, scale=scale, sigma=sigma, min_size=min_size, channel_axis=-1)
        count = int(regions.max()) + 1
        if count > max_regions:
            scale, min_size, varied = 4 * scale, 4 * min_size, False
        elif count == 1 and varied and scale > 1e-2:
            scale /= 4
        else:
            return (regions + 1).astype(np.int32)


def given_regions(regions: ArrayLike, size: Sequence[int]) -> RegionMap:
    """Check a precomputed region map.

    Parameters
    ----------
    regions
        Whole numbers (H, W) or (1, H, W), in the orientation of the image's array: load both the same way.
    size
        Height and width of the image.

    Raises
    ------
    ValueError
        If the map has another size or holds anything but whole numbers.
    """
    values = np.asarray(regions)
    values = values[0] if values.ndim == 3 and values.shape[0] == 1 else values
    if values.shape != tuple(size):
        raise ValueError(
            f"the region map is {values.shape}, its image {tuple(size)}: give one label per pixel"
        )
    whole = np.isfinite(values).all() and np.array_equal(values, np.round(values))
    if not whole or np.abs(values).max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError("the region map holds numbers that are not whole 32-bit labels")
    return values.astype(np.int32)
