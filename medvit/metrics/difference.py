"""Assessment of what a restoration removed from an image: noise only, or structure and brightness too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import convolve, gaussian_filter, gaussian_gradient_magnitude

# Slices that are examined, spread evenly over the volume; more would not change the figures noticeably.
_MOST_SLICES = 40
# Immerkaer's mask: the difference of two Laplacians, blind to slopes and to steps along one direction. Its
# answers to white noise have the standard deviation of the noise times `NOISE_GAIN`.
_MASK = np.array(((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0)), np.float32)
NOISE_GAIN = 6.0


@dataclass(frozen=True)
class Difference:
    """Figures on the image before minus the image after restoration, without a reference.

    Parameters
    ----------
    detail
        Correlation of the difference with the fine structure of the restored image, -1 to 1: about 0 if
        only noise was removed, positive if structure was blurred, negative if it was sharpened.
    edges
        Correlation of the size of the difference with the steepness of the restored image: positive if
        edges were changed more than even tissue, negative if noise was left at edges.
    offset
        Mean of the difference over its standard deviation: positive if the image became darker.
    size
        Standard deviation of the difference over that of the restored image.
    beyond
        Share of all voxels whose value lies beyond the range of the image before by more than 0.1 % of it.
    of_noise
        Standard deviation of the difference over the noise before by Immerkaer's estimate, which fine
        structure raises: about 1 if noise was removed, less if the image held more structure than noise.

    References
    ----------
    Immerkaer, Fast noise variance estimation, Computer Vision and Image Understanding 64:300-302, 1996.
    """

    detail: float
    edges: float
    offset: float
    size: float
    beyond: float
    of_noise: float


def assess_difference(before: ArrayLike, after: ArrayLike, mask: ArrayLike | None = None) -> Difference:
    """Assess what a restoration removed from an image.

    Parameters
    ----------
    before, after
        Images (X, Y) or (X, Y, Z) of one shape, whose slices follow along the last axis.
    mask
        Voxels that count, such as the foreground; all by default.

    Returns
    -------
    Difference
        All of its values are 0 where nothing was changed, or nothing counts.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    a, b = (np.nan_to_num(np.asarray(image, np.float32)) for image in (before, after))
    counted = np.ones(a.shape, bool) if mask is None else np.asarray(mask, bool)
    if not a.shape == b.shape == counted.shape:
        raise ValueError(f"the images and the mask must have one shape, not {a.shape} and {b.shape}")
    a, b, counted = (_some_slices(image) for image in (a, b, counted))
    difference = a - b
    beyond = _share_beyond(a, b)
    values = difference[counted].astype(np.float64)
    spread = float(values.std()) if values.size else 0.0
    if spread == 0:
        return Difference(0.0, 0.0, 0.0, 0.0, beyond, 0.0)
    fine = _smooth(b, 1.0) - _smooth(b, 2.5)
    steep = gaussian_gradient_magnitude(b, _in_plane(b, 1.0))
    return Difference(
        detail=_correlation(_smooth(difference, 0.7)[counted], fine[counted]),
        edges=_correlation(_smooth(np.abs(difference), 1.0)[counted], steep[counted]),
        offset=float(values.mean()) / spread,
        size=spread / max(float(b[counted].std(dtype=np.float64)), 1e-12),
        beyond=beyond,
        of_noise=spread / max(_noise_estimate(a, counted), 1e-12),
    )


def noise_power(noise: ArrayLike, bins: int = 32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Radial noise power spectrum of square patches without structure.

    Parameters
    ----------
    noise
        (patches, N, N) intensities; the mean of each patch is subtracted.
    bins
        Rings of spatial frequency between 0 and half a cycle per pixel.

    Returns
    -------
    frequency, power
        Middle of each ring in cycles per pixel, and the mean power of its frequencies in squared
        intensities times pixels, so that white noise has its variance everywhere; NaN for an empty ring.

    Raises
    ------
    ValueError
        If the patches are not square.

    References
    ----------
    ICRU report 87: Radiation dose and image-quality assessment in computed tomography, 2012.
    """
    patches = np.asarray(noise, np.float64)
    if patches.ndim != 3 or patches.shape[1] != patches.shape[2]:
        raise ValueError(f"patches must be (patches, N, N), not {patches.shape}")
    size = patches.shape[1]
    centred = patches - patches.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centred)) ** 2).mean(axis=0) / size**2
    frequency = np.fft.fftfreq(size)
    radius = np.hypot(frequency[:, None], frequency)
    ring = (radius * 2 * bins).astype(int)
    inside = (ring < bins) & (radius > 0)
    totals, counts = (np.bincount(ring[inside], weights, minlength=bins) for weights in (power[inside], None))
    with np.errstate(invalid="ignore"):
        return (np.arange(bins) + 0.5) / (2 * bins), totals / counts


def grid_pattern(noise: ArrayLike, period: int = 8) -> float:
    """Standard deviation of the pattern that repeats every `period` pixels in even patches.

    A network that works on a grid can leave such a pattern. Noise alone leaves about its own standard
    deviation over the root of the repetitions, for which the result is corrected.

    Parameters
    ----------
    noise
        (patches, N, N) intensities of patches that begin at multiples of the period.
    period
        Pixels.
    """
    patches = np.asarray(noise, np.float64)
    size = patches.shape[1] // period * period
    cells = patches[:, :size, :size].reshape(len(patches), size // period, period, size // period, period)
    cells = cells - patches[:, :size, :size].mean(axis=(1, 2))[:, None, None, None, None]
    phases = cells.transpose(0, 1, 3, 2, 4).reshape(-1, period, period)
    by_chance = phases.var(axis=0, ddof=1).mean() / len(phases)
    return float(np.sqrt(max(0.0, phases.mean(axis=0).var() - by_chance)))


def noise_answers(image: NDArray[np.float32], normal: int = 2) -> NDArray[np.float32]:
    """Answers of Immerkaer's mask within each slice of an image (X, Y) or (X, Y, Z), absolute values.

    Parameters
    ----------
    normal
        The axis along which slices follow each other; ignored in two dimensions.
    """
    mask = _MASK if image.ndim == 2 else np.expand_dims(_MASK, normal)
    return np.abs(convolve(image, mask, mode="nearest"))


def _noise_estimate(image: np.ndarray, counted: np.ndarray) -> float:
    answers = noise_answers(image)[counted]
    return float(np.sqrt(np.pi / 2) * answers.mean(dtype=np.float64) / NOISE_GAIN)


def _share_beyond(before: np.ndarray, after: np.ndarray) -> float:
    if not before.size:
        return 0.0
    low, high = float(before.min()), float(before.max())
    margin = 1e-3 * (high - low)
    return float(np.mean((after < low - margin) | (after > high + margin)))


def _some_slices(image: np.ndarray) -> np.ndarray:
    return image[..., :: max(1, -(-image.shape[2] // _MOST_SLICES))] if image.ndim == 3 else image


def _in_plane(image: np.ndarray, sigma: float) -> tuple[float, ...]:
    return (sigma, sigma, *[0.0] * (image.ndim - 2))


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(image, _in_plane(image, sigma))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in (a, b))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0
