"""Lesion-wise scores of BraTS 2023: how many lesions were found, and how well each was segmented."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from medvit.metrics.masks import Mask, bounding_box, common_box, mask_pair
from medvit.metrics.overlap import dice
from medvit.metrics.surface import hd95

_GROWTH = ndimage.generate_binary_structure(3, 2)
_TOUCHING = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class LesionScores:
    """Lesion-wise scores of one study.

    Parameters
    ----------
    dice
        Mean over reference lesions and false detections, 0 to 1.
    hd95
        The same in mm.
    found, missed
        Reference lesions that a predicted one meets or not.
    false
        Predicted lesions that meet no reference lesion.
    """

    dice: float
    hd95: float
    found: int
    missed: int
    false: int

    @property
    def sensitivity(self) -> float:
        """Share of the reference lesions that were found; ``nan`` where there is none."""
        lesions = self.found + self.missed
        return self.found / lesions if lesions else float("nan")

    @property
    def f1(self) -> float:
        """``2 found / (2 found + missed + false)``; ``nan`` where there is no lesion on either side."""
        lesions = 2 * self.found + self.missed + self.false
        return 2 * self.found / lesions if lesions else float("nan")


def lesion_scores(
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing: ArrayLike,
    *,
    dilation: int = 3,
    min_volume: float = 50.0,
    penalty: float = 374.0,
) -> LesionScores:
    """Lesion-wise Dice and HD95 as in BraTS 2023, whose settings for gliomas are the defaults.

    Reference components (26 neighbours) that meet once grown by `dilation` voxels (18 neighbours) are one
    lesion. All predicted components that meet the grown lesion are its prediction. Missed lesions and false
    detections score Dice 0 and HD95 `penalty`. Reference lesions of `min_volume` or less do not count, found
    or not. Where nothing counts, Dice is 1 and HD95 is 0.

    Parameters
    ----------
    prediction, reference
        (X, Y, Z) masks.
    spacing
        As in `surface_distances`.
    dilation
        Voxels; BraTS 2023 has 3 for gliomas and 1 for meningiomas and metastases.
    min_volume
        mm^3; BraTS 2023 has 2 for metastases, otherwise 50.
    penalty
        HD95 in mm of missed lesions and of false detections.

    Raises
    ------
    ValueError
        If the shapes differ, a mask holds other values than 0 and 1 or is not three-dimensional, or
        `dilation` is below 1.

    References
    ----------
    Lesion-wise performance metrics of the BraTS 2023 challenge, github.com/rachitsaluja/BraTS-2023-Metrics.
    There, HD95 weighs borders by area; here border voxels are counted, as in `hd95`.
    """
    a, b = mask_pair(prediction, reference)
    if a.ndim != 3 or dilation < 1:
        raise ValueError("lesions need masks with three axes and a dilation of at least 1 voxel")
    box = common_box(a, b, margin=dilation)
    a, b = a[box], b[box]
    predicted, count = ndimage.label(a, _TOUCHING)
    lesions = _lesions(b, dilation)
    steps = np.asarray(spacing, np.float64)
    voxel_volume = float(np.prod(steps) if steps.ndim == 1 else abs(np.linalg.det(steps)))
    matched: set[int] = set()
    scores: list[tuple[float, float]] = []
    found = missed = 0
    for number in range(1, int(lesions.max(initial=0)) + 1):
        lesion = lesions == number
        met = _met(predicted, lesion, dilation)
        matched |= met
        if np.count_nonzero(lesion) * voxel_volume <= min_volume:
            continue
        if met:
            found += 1
            own = np.isin(predicted, list(met))
            scores.append((dice(own, lesion), hd95(own, lesion, steps)))
        else:
            missed += 1
    false = count - len(matched)
    scores += [(0.0, penalty)] * (missed + false)
    mean_dice, mean_hd95 = np.mean(scores, axis=0) if scores else (1.0, 0.0)
    return LesionScores(float(mean_dice), float(mean_hd95), found, missed, false)


def _lesions(reference: Mask, dilation: int) -> NDArray[np.int32]:
    """(X, Y, Z) lesion number of every voxel of the reference."""
    if not reference.any():
        return np.zeros(reference.shape, np.int32)
    grown = ndimage.binary_dilation(reference, _GROWTH, dilation)
    return ndimage.label(grown, _TOUCHING)[0] * reference


def _met(predicted: NDArray[np.int32], lesion: Mask, dilation: int) -> set[int]:
    """The predicted components that the grown lesion meets."""
    box = bounding_box(lesion, dilation)
    grown = ndimage.binary_dilation(lesion[box], _GROWTH, dilation)
    return {int(n) for n in np.unique(predicted[box][grown]) if n}
