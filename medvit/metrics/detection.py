"""Detection of lesions as PI-CAI scores it: candidates, hits, lesion average precision, patient AUC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

_TOUCHING = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Detections:
    """The detections in one study.

    Parameters
    ----------
    hits
        Confidence of each candidate that is a reference lesion.
    false
        Confidence of each candidate that is not a reference lesion.
    missed
        Reference lesions without a candidate.
    confidence
        Confidence of the study as a whole: that of its most confident candidate, 0 without one.
    """

    hits: tuple[float, ...]
    false: tuple[float, ...]
    missed: int
    confidence: float

    @property
    def positive(self) -> bool:
        """Whether the reference has a lesion."""
        return bool(self.hits or self.missed)


def lesion_candidates(
    probability: ArrayLike,
    *,
    factor: float = 2.5,
    min_probability: float = 0.01,
    min_voxels: int = 10,
    most: int = 5,
) -> NDArray[np.float32]:
    """Candidates in a probability map, which do not touch, each filled with its highest probability.

    The highest probability that is left, divided by `factor`, is a threshold. Of the components above it that
    are large enough, the one with the highest probability becomes a candidate, unless it touches an earlier
    one, and is removed before the next search; if none is large enough, all of them are removed.

    Parameters
    ----------
    probability
        (X, Y, Z) probability of a lesion.
    factor
        Factor by which a candidate's probability may lie below the highest one.
    min_probability
        The search ends below this probability.
    min_voxels
        Components of this many voxels or fewer are not candidates.
    most
        Largest number of candidates.

    Raises
    ------
    ValueError
        If the map does not have three axes, or has values outside 0 to 1.

    References
    ----------
    Bosma et al. 2023, "Semisupervised learning with report-guided pseudo labels for deep learning-based
    prostate cancer detection using biparametric MRI", Radiology: AI (the dynamic threshold). The defaults and
    the rules are those of the authors' package report_guided_annotation (threshold "dynamic-v2").
    """
    rest = np.array(probability, np.float32)
    if rest.ndim != 3 or not (np.isfinite(rest).all() and rest.min() >= 0 and rest.max() <= 1):
        raise ValueError("candidates need a map with three axes and probabilities from 0 to 1")
    found = np.zeros_like(rest)
    count = 0
    while count < most:
        highest = float(rest.max())
        if highest < min_probability or highest == 0:
            break
        components, number = ndimage.label(rest >= highest / factor, _TOUCHING)
        peaks = np.atleast_1d(ndimage.maximum(rest, components, np.arange(1, number + 1)))
        peaks[np.bincount(components.ravel())[1:] <= min_voxels] = 0
        if not peaks.any():
            rest[components > 0] = 0
            continue
        own = components == 1 + int(peaks.argmax())
        # A candidate that touches an earlier one is its rim.
        if not (found[ndimage.binary_dilation(own, _TOUCHING)] > 0).any():
            found[own] = peaks.max()
            count += 1
        rest[own] = 0
    return found


def match_candidates(
    candidates: ArrayLike, reference: ArrayLike, *, min_overlap: float = 0.1, lenient: bool = True
) -> Detections:
    """Compare candidates with reference lesions, each of which has at most one candidate.

    Parameters
    ----------
    candidates
        (X, Y, Z) map of `lesion_candidates`: 0, or the candidate's confidence.
    reference
        (X, Y, Z) mask of lesions; voxels that touch, by a corner too, are of one lesion.
    min_overlap
        Least intersection over union of a hit.
    lenient
        Whether a further candidate on a lesion that already has one does not count as false, as in PI-CAI.

    Raises
    ------
    ValueError
        If the shapes differ or the maps do not have three axes.
    """
    confidence, truth = np.asarray(candidates, np.float64), np.asarray(reference) != 0
    if confidence.shape != truth.shape or confidence.ndim != 3:
        raise ValueError(f"the maps must have one shape (X, Y, Z), not {confidence.shape} and {truth.shape}")
    found, count = ndimage.label(confidence > 0, _TOUCHING)
    lesions, lesion_count = ndimage.label(truth, _TOUCHING)
    sure = ndimage.maximum(confidence, found, np.arange(1, count + 1)) if count else np.zeros(0)
    sure = np.atleast_1d(np.asarray(sure, np.float64))
    overlap = _overlaps(found, count, lesions, lesion_count)
    enough = overlap >= min_overlap
    # Of the pairings with the most hits, the one with the largest overlap.
    rows, columns = linear_sum_assignment(np.where(enough, 1 + overlap / (1 + min(overlap.shape)), 0), True)
    pairs = [(r, c) for r, c in zip(rows, columns, strict=True) if enough[r, c]]
    hit = {r for r, _ in pairs}
    excused = {r for r in range(count) if lenient and enough[r].any()} - hit
    return Detections(
        hits=tuple(float(sure[r]) for r in sorted(hit)),
        false=tuple(float(sure[r]) for r in range(count) if r not in hit | excused),
        missed=lesion_count - len(pairs),
        confidence=float(sure.max()) if count else 0.0,
    )


def _overlaps(
    found: NDArray[np.int32], count: int, lesions: NDArray[np.int32], lesion_count: int
) -> NDArray[np.float64]:
    """(candidates, lesions) intersection over union."""
    both = np.bincount(
        (found * (lesion_count + 1) + lesions).ravel(), minlength=(count + 1) * (lesion_count + 1)
    ).reshape(count + 1, lesion_count + 1)
    size, lesion_size = both.sum(axis=1)[1:, None], both.sum(axis=0)[None, 1:]
    inner = both[1:, 1:]
    return inner / np.maximum(size + lesion_size - inner, 1)


def lesion_average_precision(studies: Sequence[Detections]) -> float:
    """Area under the steps of precision over recall of all candidates; ``nan`` without lesions.

    Candidates of one confidence count together. Lesions that were missed keep the recall below 1.
    """
    lesions = sum(len(s.hits) + s.missed for s in studies)
    if not lesions:
        return float("nan")
    scored = [(c, True) for s in studies for c in s.hits] + [(c, False) for s in studies for c in s.false]
    confidence = np.array([c for c, _ in scored])
    is_hit = np.array([h for _, h in scored], bool)
    area = recall = 0.0
    for threshold in np.unique(confidence)[::-1]:
        kept = confidence >= threshold
        hits = np.count_nonzero(is_hit & kept)
        area += (hits / lesions - recall) * hits / np.count_nonzero(kept)
        recall = hits / lesions
    return float(area)


def patient_auc(studies: Sequence[Detections]) -> float:
    """Area under the ROC curve of the studies' confidences; ``nan`` where all are positive or none is."""
    positive = np.array([s.positive for s in studies], bool)
    count = np.count_nonzero(positive)
    others = len(positive) - count
    if not count or not others:
        return float("nan")
    ranks = rankdata([s.confidence for s in studies])
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def picai_score(studies: Sequence[Detections]) -> float:
    """Mean of `patient_auc` and `lesion_average_precision`, by which PI-CAI ranks.

    References
    ----------
    Saha et al. 2024, "Artificial intelligence and radiologists in prostate cancer detection on MRI (PI-CAI)",
    Lancet Oncology 25.
    """
    return (patient_auc(studies) + lesion_average_precision(studies)) / 2
