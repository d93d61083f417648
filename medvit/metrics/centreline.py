"""Dice of centre-lines: how well the course of tubes such as vessels and airways was found."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from skimage.morphology import skeletonize

from medvit.metrics.masks import Mask, common_box, mask_pair


def centreline_dice(prediction: ArrayLike, reference: ArrayLike) -> float:
    """Centre-line Dice (clDice): the harmonic mean of how much of each centre-line lies in the other mask.

    Parameters
    ----------
    prediction, reference
        Masks of one shape, (X, Y) or (X, Y, Z). They are thinned voxel by voxel, so on grids with thick
        slices centre-lines are coarse along that axis; there are eight times the voxels of the masks' common
        box to hold in memory.

    Returns
    -------
    float
        0 to 1; ``nan`` where both masks are empty, 0 where one is.

    Raises
    ------
    ValueError
        If the shapes differ, a mask holds other values than 0 and 1, or there are not two or three axes.

    References
    ----------
    Shit et al.: clDice, a novel topology-preserving loss function for tubular structure segmentation, CVPR
    2021, section 3.
    """
    a, b = mask_pair(prediction, reference)
    if a.ndim not in (2, 3):
        raise ValueError(f"centre-lines need two or three axes, not {a.ndim}")
    if not a.any() and not b.any():
        return float("nan")
    if not a.any() or not b.any():
        return 0.0
    box = common_box(a, b)
    a, b = _refined(a[box]), _refined(b[box])
    precision, sensitivity = _share_inside(a, b), _share_inside(b, a)
    both = precision + sensitivity
    return 2 * precision * sensitivity / both if both else 0.0


def _share_inside(tube: Mask, other: Mask) -> float:
    line = skeletonize(tube)
    return int(np.count_nonzero(line & other)) / int(np.count_nonzero(line))


def _refined(mask: Mask) -> Mask:
    """The mask with a voxel between every two: a tube two voxels wide is three wide, and has a centre.

    Without it, thinning makes tubes of an even width vanish.
    """
    for axis in range(mask.ndim):
        along = np.moveaxis(mask, axis, 0)
        finer = np.zeros((2 * len(along) - 1, *along.shape[1:]), bool)
        finer[::2] = along
        finer[1::2] = along[1:] & along[:-1]
        mask = np.moveaxis(finer, 0, axis)
    return np.ascontiguousarray(mask)
