"""Noise, sharpness and evenness of an image, estimated where structures were found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from medvit.metrics.difference import NOISE_GAIN, noise_answers
from medvit.studies.study import Grid

# Fewer labelled voxels than this do not allow an estimate.
ENOUGH = 500


@dataclass(frozen=True)
class ImageQuality:
    """The quality of an image within what was labelled.

    Parameters
    ----------
    noise
        Standard deviation of the noise, in the unit of the image.
    snr
        Mean intensity over noise; ``inf`` for a noiseless image.
    sharpness
        Steepness of the steepest 5 % of edges, per cent of the intensity range per mm.
    unevenness
        Largest jump of the mean brightness of one slice against its two neighbours, as a share of the
        intensity range: movement between slices and failed slices show as jumps.
    finite
        Share of the voxels of the whole image whose values are finite.
    range
        Lowest and highest finite value of the whole image.
    coherence
        Correlation of neighbouring voxels of the whole image, along the axis with the highest: about 0 for
        noise alone, above 0.5 for any object.
    """

    noise: float
    snr: float
    sharpness: float
    unevenness: float
    finite: float
    range: tuple[float, float]
    coherence: float = 1.0


def assess_image(image: np.ndarray, label_map: np.ndarray, grid: Grid) -> ImageQuality:
    """Estimate noise, sharpness and evenness of an image, (X, Y, Z), where `label_map` is not 0.

    If little is labelled, the whole image is used.

    References
    ----------
    Immerkaer, Fast noise variance estimation, Computer Vision and Image Understanding 64:300-302, 1996;
    with the median in place of the mean, which edges do not move.
    """
    finite = np.isfinite(image)
    share = float(finite.mean()) if image.size else 0.0
    if share == 0.0:
        return ImageQuality(0.0, 0.0, 0.0, 0.0, 0.0, (0.0, 0.0))
    known = image if share == 1.0 else np.where(finite, image, image[finite].min())
    extremes, coherence = (float(known.min()), float(known.max())), _coherence(known)
    mask = label_map > 0
    if np.count_nonzero(mask) < ENOUGH:
        mask = np.ones(image.shape, bool)
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    known, mask = known[box].astype(np.float32), mask[box]
    mean = float(known[mask].mean(dtype=np.float64))
    noise = _noise(known, mask, grid)
    snr = abs(mean) / noise if noise else float("inf")
    low, high = np.percentile(known[mask][:: max(1, int(mask.sum() / 1e6))], (2, 98))
    if high <= low:
        return ImageQuality(noise, snr, 0.0, 0.0, share, extremes, coherence)
    spread = float(high - low)
    sharpness, unevenness = _steepness(known, mask, grid) / spread, _largest_jump(known, mask) / spread
    return ImageQuality(noise, snr, 100 * sharpness, unevenness, share, extremes, coherence)


def _coherence(image: np.ndarray) -> float:
    """Highest correlation of voxels with their neighbours along one axis, over at most ~1 M voxels."""
    step = max(1, round((image.size / 1e6) ** 0.5))
    highest = 0.0
    for axis in range(image.ndim):
        rows = np.moveaxis(image, axis, -1)[::step, ::step].astype(np.float64)
        # A few voxels far beyond the others would decide the correlation alone.
        rows = rows.clip(*np.percentile(rows, (1, 99)))
        first, second = rows[..., :-1].reshape(-1), rows[..., 1:].reshape(-1)
        if first.size and first.std() > 0 and second.std() > 0:
            highest = max(highest, float(np.corrcoef(first, second)[0, 1]))
    return highest


def foreground(image: np.ndarray) -> np.ndarray:
    """Where an image (X, Y, Z) is brighter than Otsu's threshold between air and body; all if flat."""
    values = image.reshape(-1)[:: max(1, image.size // 1_000_000)]
    values = values[np.isfinite(values)]
    if not values.size or values.min() == values.max():
        return np.ones(image.shape, bool)
    # Bone and metal would draw the threshold up into the body.
    return image > threshold_otsu(values.clip(max=np.percentile(values, 95)))


def _noise(image: np.ndarray, mask: np.ndarray, grid: Grid) -> float:
    """Immerkaer's estimate in the slices with the finest pixels, from the median of at most ~1 M voxels."""
    normal = _slice_axis(image.shape, grid)
    slices, masks = np.moveaxis(image, normal, 0), np.moveaxis(mask, normal, 0)
    step = max(1, slices.size // 1_000_000)
    if min(slices.shape[1:]) < 3:
        return 0.0
    # The rim is left out: there the mask meets the edge of the head.
    inner = ndimage.binary_erosion(masks[::step], np.ones((1, 3, 3)))
    inner = inner if np.count_nonzero(inner) >= ENOUGH else masks[::step]
    answers = noise_answers(slices[::step], normal=0)[inner]
    return float(1.4826 * np.median(answers) / NOISE_GAIN) if answers.size else 0.0


def _slice_axis(shape: tuple[int, ...], grid: Grid) -> int:
    """The axis with the thickest voxels; of equals, the last."""
    spacing = np.where(np.array(shape) == 1, np.inf, grid.spacing)
    return int(len(spacing) - 1 - np.argmax(np.round(spacing[::-1], 3)))


def _steepness(image: np.ndarray, mask: np.ndarray, grid: Grid) -> float:
    """Slope that the steepest 5 % of the voxels exceed, per mm."""
    squared = np.zeros(image.shape, np.float32)
    for axis, mm in enumerate(grid.spacing):
        if image.shape[axis] > 2:
            squared += np.square(np.gradient(image, mm, axis=axis))
    return float(np.sqrt(np.percentile(squared[mask], 95)))


def _largest_jump(image: np.ndarray, mask: np.ndarray) -> float:
    """Largest distance of a slice's mean from that of its neighbours, over the slices that hold enough."""
    worst = 0.0
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        counts = mask.sum(axis=others)
        sums = np.where(mask, image, 0).sum(axis=others, dtype=np.float64)
        full = counts > max(20, 0.3 * counts.max())
        means = sums[full] / counts[full]
        if len(means) >= 5:
            worst = max(worst, float(np.abs(means[1:-1] - (means[:-2] + means[2:]) / 2).max()))
    return worst
