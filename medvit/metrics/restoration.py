"""Quality of restored images: PSNR, SSIM, RMSE, HU bias, and the variants of published CT tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

# Taps of the Gaussian window of SSIM (sigma 1.5).
_SSIM_WINDOW = 11
# ITU-R BT.601 luma of 8-bit blue, green, red, in studio range 16..235.
_LUMA_BGR = np.array([24.966, 128.553, 65.481]) / 255


def rmse(restored: ArrayLike, reference: ArrayLike) -> float:
    """Root of the mean squared difference, in the images' unit (HU for CT).

    Parameters
    ----------
    restored, reference
        Images of one shape, any number of axes.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    a, b = _pair(restored, reference)
    return float(np.sqrt(np.mean((a - b) ** 2)))


def nrmse(restored: ArrayLike, reference: ArrayLike, *, mask: ArrayLike | None = None) -> float:
    """Root mean squared difference over the root mean square of the reference; 0 for equal images.

    Parameters
    ----------
    restored, reference
        Images of one shape, any number of axes.
    mask
        Voxels that count, such as the foreground, since air without error improves the result. All by
        default.

    Raises
    ------
    ValueError
        If the shapes differ, the mask is empty, or the reference is 0 wherever it counts.
    """
    a, b, counted = _masked(restored, reference, mask)
    return _ratio(a[counted] - b[counted], b[counted])


def hfen(
    restored: ArrayLike, reference: ArrayLike, *, mask: ArrayLike | None = None, sigma: float = 1.5
) -> float:
    """High-frequency error norm: the difference of edges over the edges of the reference.

    Parameters
    ----------
    restored, reference
        Images of one shape, any number of axes.
    mask
        Voxels that count; all by default.
    sigma
        Width of the Laplacian of Gaussian that finds edges, in voxels.

    Raises
    ------
    ValueError
        If the shapes differ, the mask is empty, or the reference has no edges where it counts.

    References
    ----------
    Ravishankar, Bresler: MR image reconstruction from highly undersampled k-space data by dictionary
    learning, IEEE Transactions on Medical Imaging 2011.
    """
    a, b, counted = _masked(restored, reference, mask)
    edges = [ndimage.gaussian_laplace(image, sigma)[counted] for image in (a, b)]
    return _ratio(edges[0] - edges[1], edges[1])


def _masked(
    restored: ArrayLike, reference: ArrayLike, mask: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    a, b = _pair(restored, reference)
    counted = np.ones(a.shape, bool) if mask is None else np.asarray(mask, bool)
    if counted.shape != a.shape or not counted.any():
        raise ValueError(f"the mask must have the shape {a.shape} and hold a voxel, not {counted.shape}")
    return a, b, counted


def _ratio(error: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    size = np.linalg.norm(reference)
    if size == 0:
        raise ValueError("the reference is 0 wherever it counts")
    return float(np.linalg.norm(error) / size)


def psnr(restored: ArrayLike, reference: ArrayLike, *, data_range: float) -> float:
    """Peak signal-to-noise ratio, ``20 log10(data_range / rmse)``, in dB; infinite for equal images.

    Parameters
    ----------
    restored, reference
        Images of one shape, any number of axes.
    data_range
        Distance between the smallest and largest possible value, such as 400 for a window of [-160, 240] HU.

    Raises
    ------
    ValueError
        If the shapes differ or `data_range` is not positive.
    """
    error = rmse(restored, reference)
    _check_range(data_range)
    return float("inf") if error == 0 else float(20 * np.log10(data_range / error))


def ssim(
    restored: ArrayLike,
    reference: ArrayLike,
    *,
    data_range: float,
    channel_axis: int | None = None,
    mask: ArrayLike | None = None,
) -> float:
    """Structural similarity, with the Gaussian window of the original paper.

    Parameters
    ----------
    restored, reference
        Images of one shape, in two or three dimensions.
    data_range
        Distance between the smallest and largest possible value.
    channel_axis
        Axis of the channels, whose similarities are averaged; None for an image without.
    mask
        Pixels whose similarity counts, such as the foreground. All by default.

    Returns
    -------
    float
        Mean over all pixels whose 11-tap window (sigma 1.5) lies inside the image, or over the mask.

    Raises
    ------
    ValueError
        If the shapes differ, the mask is empty, an axis is shorter than the window, or `data_range` is not
        positive.

    References
    ----------
    Wang, Bovik, Sheikh, Simoncelli: Image quality assessment, from error visibility to structural
    similarity, IEEE Transactions on Image Processing 2004.
    """
    a, b = _pair(restored, reference)
    _check_range(data_range)
    size = [n for axis, n in enumerate(a.shape) if channel_axis is None or axis != channel_axis % a.ndim]
    if min(size) < _SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {_SSIM_WINDOW} pixels along each axis, not {size}")
    similarity, each = structural_similarity(
        a,
        b,
        data_range=data_range,
        channel_axis=channel_axis,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    if mask is None:
        return float(similarity)
    counted = _masked(restored, reference, mask)[2]
    return float(each[counted].mean())


def hu_bias(
    restored: ArrayLike,
    reference: ArrayLike,
    regions: ArrayLike,
    *,
    margin: int = 1,
    max_std: float = 30.0,
    min_size: int = 50,
) -> dict[int, float]:
    """Mean of ``restored - reference`` in every homogeneous region: a shift of HU values.

    Parameters
    ----------
    restored, reference
        Images of one shape, in HU.
    regions
        Region numbers of every pixel, of the same shape.
    margin
        Pixels within this distance of another region are left out, because they hold partial volume.
    max_std
        Largest standard deviation (HU) of the reference in a region that counts as homogeneous.
    min_size
        Smallest number of pixels left in a region that counts.

    Returns
    -------
    dict
        Region number to bias (HU); empty where no region is homogeneous.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    a, b = _pair(restored, reference)
    labels = np.asarray(regions)
    if labels.shape != a.shape:
        raise ValueError(f"the region map must be {a.shape}, not {labels.shape}")
    width = 2 * margin + 1
    inside = ndimage.minimum_filter(labels, width) == ndimage.maximum_filter(labels, width)
    biases = {}
    for label in np.unique(labels[inside]):
        pixels = inside & (labels == label)
        if pixels.sum() >= min_size and b[pixels].std() <= max_std:
            biases[int(label)] = float((a - b)[pixels].mean())
    return biases


def block_biases(
    restored: ArrayLike,
    reference: ArrayLike,
    *,
    window: tuple[float, float],
    size: int = 8,
    max_std: float | None = None,
) -> NDArray[np.float64]:
    """`hu_bias` without a region map: in every homogeneous block of the reference.

    Parameters
    ----------
    restored, reference
        Images (X, Y) or (X, Y, Z), in HU.
    window
        Lowest and highest mean of a block that counts, which leaves air out of a window of soft tissue.
    size
        Pixels along the edges of a block; on a shorter axis, all of them. Voxels left over are ignored.
    max_std
        Largest standard deviation of the reference in a block that counts; by default 7.5 % of the window,
        30 HU of 400.

    Returns
    -------
    numpy.ndarray
        (blocks,) mean of ``restored - reference``; empty where no block is homogeneous.

    Raises
    ------
    ValueError
        If the shapes differ, or the window is empty.
    """
    a, b = _pair(restored, reference)
    low, high = window
    _check_range(high - low)
    limit = 0.075 * (high - low) if max_std is None else max_std
    edges = [min(size, n) for n in a.shape]
    differences, values = (_blocks(image, edges) for image in (a - b, b))
    means = values.mean(axis=1)
    counted = (values.std(axis=1) <= limit) & (means >= low) & (means <= high)
    return differences[counted].mean(axis=1)


def _blocks(image: NDArray[np.float64], edges: list[int]) -> NDArray[np.float64]:
    """(blocks, pixels of a block)."""
    counts = [n // edge for n, edge in zip(image.shape, edges, strict=True)]
    whole = image[tuple(slice(c * edge) for c, edge in zip(counts, edges, strict=True))]
    cut = whole.reshape([n for pair in zip(counts, edges, strict=True) for n in pair])
    axes = range(cut.ndim)
    return cut.transpose(*axes[::2], *axes[1::2]).reshape(int(np.prod(counts)), -1)


def psnr_y_of_bgr(restored: ArrayLike, reference: ArrayLike, *, crop_border: int = 0) -> float:
    """PSNR of 8-bit images as in RAT's published CT tables: of the luma of three channels.

    A grey image read as three equal channels has a luma of ``219/255 * grey + 16``, so this value is
    1.32 dB above `psnr` of the grey image. Only for comparison with tables that were made this way.

    Parameters
    ----------
    restored, reference
        8-bit values, (H, W, 3) in the order blue, green, red; one channel or (H, W) is taken as it is.
    crop_border
        Pixels to leave out at each edge.
    """
    return psnr(_luma(restored, crop_border), _luma(reference, crop_border), data_range=255)


def ssim_y_of_bgr(restored: ArrayLike, reference: ArrayLike, *, crop_border: int = 0) -> float:
    """SSIM of 8-bit images as in RAT's published CT tables: of the luma, see `psnr_y_of_bgr`."""
    return ssim(_luma(restored, crop_border), _luma(reference, crop_border), data_range=255)


def _luma(image: ArrayLike, crop_border: int) -> NDArray[np.float64]:
    values = np.asarray(image, dtype=np.float64)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3):
        raise ValueError(f"the image must be (H, W), (H, W, 1) or (H, W, 3), not {values.shape}")
    height, width = values.shape[:2]
    values = values[crop_border : height - crop_border, crop_border : width - crop_border]
    return values @ _LUMA_BGR + 16 if values.shape[2] == 3 else values[..., 0]


def _pair(restored: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Integer images would wrap around when they are subtracted.
    a, b = np.asarray(restored, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"the images must have one shape, not {a.shape} and {b.shape}")
    return a, b


def _check_range(data_range: float) -> None:
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, it is {data_range}")
