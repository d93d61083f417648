"""Calibration of probabilities: whether a network is right as often as it claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in bins of confidence of equal width; empty bins are ``nan``.

    Parameters
    ----------
    confidence
        (bins,) mean confidence.
    accuracy
        (bins,) share that was right.
    count
        (bins,) voxels.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: the gap, averaged over all voxels; ``nan`` without any."""
        total = int(self.count.sum())
        return float(np.nansum(self._gap * self.count) / total) if total else float("nan")

    @property
    def mce(self) -> float:
        """Maximum calibration error: the gap in the worst bin; ``nan`` without any voxel."""
        return float(np.nanmax(self._gap)) if self.count.any() else float("nan")

    @property
    def _gap(self) -> NDArray[np.float64]:
        return np.abs(self.confidence - self.accuracy)


def reliability(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> Reliability:
    """Confidence against accuracy.

    For one structure, pass its probability and its true mask.

    Parameters
    ----------
    confidence
        Probability of the predicted label, 0 to 1, any shape.
    correct
        Whether the prediction was right, of the same shape.
    bins
        Bins of equal width from 0 to 1; each holds its upper bound, as in the paper.

    Raises
    ------
    ValueError
        If the shapes differ, a confidence lies outside [0, 1] or is not finite, or `bins` is below 1.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks, ICML 2017, section 2.
    """
    p, right = np.asarray(confidence, np.float64).ravel(), np.asarray(correct, bool).ravel()
    if np.shape(confidence) != np.shape(correct):
        raise ValueError(f"shapes must agree, not {np.shape(confidence)} and {np.shape(correct)}")
    if bins < 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("confidences must lie in 0 to 1, and there must be a bin")
    place = np.clip(np.ceil(p * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, p, bins) / count
        accuracy = np.bincount(place, right, bins) / count
    return Reliability(mean, accuracy, count)


def segmentation_reliability(
    probabilities: ArrayLike, label_map: ArrayLike, *, bins: int = 15
) -> Reliability:
    """`reliability` of the most probable label of every voxel.

    Parameters
    ----------
    probabilities
        (C, X, Y, Z) or (C, X, Y), background first, summing to 1 over C.
    label_map
        (X, Y, Z) or (X, Y) integers below C.

    Raises
    ------
    ValueError
        If the shapes do not fit, or as in `reliability`.
    """
    p, labels = np.asarray(probabilities), np.asarray(label_map)
    if p.ndim < 2 or p.shape[1:] != labels.shape:
        raise ValueError(f"probabilities must be (C, *{labels.shape}), not {p.shape}")
    return reliability(p.max(axis=0), p.argmax(axis=0) == labels, bins=bins)


def pooled(found: Sequence[Reliability]) -> Reliability:
    """The reliability over the voxels of several studies, with the same bins."""
    count = np.sum([one.count for one in found], axis=0)

    def mean(values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        sums = np.nansum([v * one.count for v, one in zip(values, found, strict=True)], axis=0)
        with np.errstate(invalid="ignore"):
            return sums / count

    return Reliability(mean([r.confidence for r in found]), mean([r.accuracy for r in found]), count)
