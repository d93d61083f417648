"""Summary of the scores of many studies: means with bootstrap intervals, and agreement of volumes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvit.evaluation.measure import StudyScores
from medvit.metrics import Reliability, pooled

RESAMPLES = 2000
LEVEL = 0.95
ALL = "all structures"


@dataclass(frozen=True)
class Summary:
    """One metric of one structure over all studies.

    Parameters
    ----------
    structure, metric
        Structure and metric that were measured.
    studies
        Number of studies with a finite value, which the mean includes.
    one_sided
        Number of studies with an infinite distance, because the structure is on one side only; the median
        includes them, the mean does not.
    mean, median
        Mean and median of the metric; infinite where some values are infinite and none is finite.
    low, high
        95 % confidence interval of the mean by bootstrap over studies; ``nan`` for fewer than two.
    """

    structure: str
    metric: str
    studies: int
    one_sided: int
    mean: float
    low: float
    high: float
    median: float


@dataclass(frozen=True)
class Agreement:
    """Volumes of one structure after Bland and Altman (Lancet 1986).

    Parameters
    ----------
    structure
        Name of the study or structure.
    mean_ml, difference_ml
        (studies,) mean of both volumes, and prediction minus reference; studies without the structure on
        either side are left out.
    bias
        Mean difference in ml.
    low, high
        Limits of agreement in ml, ``bias -+ 1.96 SD``; ``nan`` for fewer than two studies.
    """

    structure: str
    mean_ml: np.ndarray
    difference_ml: np.ndarray
    bias: float
    low: float
    high: float

    @property
    def correlation(self) -> float:
        """Pearson's correlation of the two volumes; ``nan`` for fewer than three studies or equal volumes."""
        volumes = self.mean_ml + self.difference_ml / 2, self.mean_ml - self.difference_ml / 2
        if len(self.mean_ml) < 3 or any(np.ptp(v) == 0 for v in volumes):
            return float("nan")
        return float(np.corrcoef(*volumes)[0, 1])


def summarise(scores: Sequence[StudyScores], *, seed: int = 0) -> list[Summary]:
    """Every metric of every structure, and of the mean over each study's structures.

    Studies are resampled as a whole (percentile bootstrap), because structures of one study depend on each
    other.
    """
    if not scores:
        return []
    structures, metrics, values = _table(scores)
    finite = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no values is NaN, as intended
        finite = np.concatenate([finite, np.nanmean(finite, axis=1, keepdims=True)], axis=1)
        means, (low, high) = np.nanmean(finite, axis=0), _intervals(finite, seed)
        medians = np.nanmedian(np.concatenate([values, finite[:, -1:]], axis=1), axis=0)
    counts = np.isfinite(finite).sum(axis=0)
    infinite = np.concatenate([np.isinf(values).sum(axis=0), np.isinf(values).sum(axis=(0, 1))[None]])
    # A structure that is never on both sides has infinite distances, which are not undefined.
    means = np.where((counts == 0) & (infinite > 0), np.inf, means)
    return [
        Summary(
            structure, metric, int(counts[i, j]), int(infinite[i, j]),
            *(float(figure[i, j]) for figure in (means, low, high, medians)),
        )
        for i, structure in enumerate([*structures, ALL])
        for j, metric in enumerate(metrics)
    ]  # fmt: skip


def names_of(summaries: Sequence[Summary]) -> list[str]:
    """The structures, and last their mean where there are several."""
    names = list(dict.fromkeys(s.structure for s in summaries))
    return names if len(names) > 2 else names[:1]


def agreements(scores: Sequence[StudyScores]) -> list[Agreement]:
    """The agreement of volumes, for every structure that occurs."""
    if not any("volume_prediction_ml" in values for s in scores for values in s.values.values()):
        return []
    structures, metrics, values = _table(scores)
    ours = values[..., metrics.index("volume_prediction_ml")]
    theirs = values[..., metrics.index("volume_reference_ml")]
    found = []
    for i, structure in enumerate(structures):
        there = ours[:, i] + theirs[:, i] > 0
        if there.any():
            p, r = ours[there, i], theirs[there, i]
            bias = float(np.mean(p - r))
            spread = 1.96 * float(np.std(p - r, ddof=1)) if len(p) > 1 else float("nan")
            found.append(Agreement(structure, (p + r) / 2, p - r, bias, bias - spread, bias + spread))
    return found


def pooled_reliability(scores: Sequence[StudyScores]) -> dict[str, Reliability]:
    """The reliability of every structure over the voxels of all studies."""
    structures = dict.fromkeys(name for s in scores for name in s.reliability)
    return {n: pooled([s.reliability[n] for s in scores if n in s.reliability]) for n in structures}


def _table(scores: Sequence[StudyScores]) -> tuple[list[str], list[str], np.ndarray]:
    """Structures, metrics and (studies, structures, metrics) values, ``nan`` where a study lacks one."""
    structures = list(dict.fromkeys(name for s in scores for name in s.values))
    metrics = list(dict.fromkeys(m for s in scores for values in s.values.values() for m in values))
    missing = float("nan")
    values = [[[s.values.get(n, {}).get(m, missing) for m in metrics] for n in structures] for s in scores]
    return (
        structures,
        metrics,
        np.array(values, np.float64).reshape(len(scores), len(structures), len(metrics)),
    )


def _intervals(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the means over axis 0, each of the shape of the other axes."""
    studies = len(values)
    columns = values.reshape(studies, -1)
    known = np.isfinite(columns)
    # Number of times that each study is drawn in each resample.
    times = np.random.default_rng(seed).multinomial(studies, np.full(studies, 1 / studies), RESAMPLES)
    drawn = times.astype(np.float64)
    means = (drawn @ np.where(known, columns, 0)) / (drawn @ known)
    bounds = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low, high = np.where(known.sum(axis=0) > 1, bounds, np.nan).reshape(2, *values.shape[1:])
    return low, high
