"""Overlap of two masks, and the difference of their volumes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from medvit.metrics.masks import mask_pair


class VolumeError(NamedTuple):
    """Prediction minus reference.

    Attributes
    ----------
    ml
        In millilitres.
    percent
        Share of the reference's volume; ``nan`` where the reference is empty.
    """

    ml: float
    percent: float


def dice(prediction: ArrayLike, reference: ArrayLike) -> float:
    """Dice coefficient ``2 |P and R| / (|P| + |R|)``, 0 to 1.

    Parameters
    ----------
    prediction, reference
        Masks of one shape, any number of axes.

    Returns
    -------
    float
        ``nan`` where both masks are empty: there was nothing to find, and nothing was found.

    Raises
    ------
    ValueError
        If the shapes differ or a mask holds other values than 0 and 1.

    Examples
    --------
    >>> dice([1, 1, 0, 0], [1, 0, 0, 0])
    0.6666666666666666
    """
    both, p, r = _counts(prediction, reference)
    return 2 * both / (p + r) if p + r else float("nan")


def iou(prediction: ArrayLike, reference: ArrayLike) -> float:
    """Intersection over union (Jaccard index), 0 to 1; arguments and empty masks as in `dice`."""
    both, p, r = _counts(prediction, reference)
    return both / (p + r - both) if p + r else float("nan")


def volume_ml(mask: ArrayLike, voxel_volume: float) -> float:
    """Volume in ml of a mask whose voxels have `voxel_volume` mm^3."""
    return int(np.count_nonzero(mask)) * voxel_volume / 1000


def volume_error(prediction: ArrayLike, reference: ArrayLike, voxel_volume: float) -> VolumeError:
    """Volume of the prediction minus that of the reference, for voxels of `voxel_volume` mm^3.

    Raises
    ------
    ValueError
        If the shapes differ or a mask holds other values than 0 and 1.
    """
    _, p, r = _counts(prediction, reference)
    return VolumeError((p - r) * voxel_volume / 1000, 100 * (p - r) / r if r else float("nan"))


def _counts(prediction: ArrayLike, reference: ArrayLike) -> tuple[int, int, int]:
    # Voxels of both, of the prediction, of the reference.
    a, b = mask_pair(prediction, reference)
    return int(np.count_nonzero(a & b)), int(np.count_nonzero(a)), int(np.count_nonzero(b))
