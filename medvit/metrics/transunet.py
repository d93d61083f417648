"""Dice and HD95 as in TransUNet's table of the Synapse multi-organ task: only to compare with such tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from medvit.metrics.masks import mask_pair
from medvit.metrics.overlap import dice
from medvit.metrics.surface import surface_distances


class TransUNetScores(NamedTuple):
    """Dice, and HD95 in voxels."""

    dice: float
    hd95_voxels: float


def transunet_scores(prediction: ArrayLike, reference: ArrayLike) -> TransUNetScores:
    """Dice and HD95 under the rules of TransUNet's evaluation, which ParaTransCNN's follows.

    Three things differ from `dice` and `hd95`. Distances are in voxels, whatever the spacing. The 95th
    percentile is taken over the distances of both directions together. And empty masks count: with an empty
    prediction (0, 0), so that a missed organ lowers the mean HD95; with an empty reference alone (1, 0).

    Parameters
    ----------
    prediction, reference
        Masks of one structure, (X, Y, Z); a table averages over studies, then over structures.

    Raises
    ------
    ValueError
        If the shapes differ or a mask holds other values than 0 and 1.

    References
    ----------
    Chen et al.: TransUNet, Transformers make strong encoders for medical image segmentation, 2021, and the
    evaluation that was published with it.
    """
    a, b = mask_pair(prediction, reference)
    if not a.any():
        return TransUNetScores(0.0, 0.0)
    if not b.any():
        return TransUNetScores(1.0, 0.0)
    distances = surface_distances(a, b, (1.0,) * a.ndim).both
    return TransUNetScores(dice(a, b), float(np.percentile(distances, 95)))
