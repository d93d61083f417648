"""Input of the metrics: pairs of masks of one structure, and the box that contains them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mask = NDArray[np.bool_]


def mask_pair(prediction: ArrayLike, reference: ArrayLike) -> tuple[Mask, Mask]:
    """Both masks as booleans.

    Parameters
    ----------
    prediction, reference
        Arrays of one shape with any number of axes; booleans, or numbers that are 0 or 1.

    Raises
    ------
    ValueError
        If the shapes differ, or a mask holds other values, as a label map of several structures does.
    """
    a, b = _mask(prediction), _mask(reference)
    if a.shape != b.shape:
        raise ValueError(f"the masks must have one shape, not {a.shape} and {b.shape}")
    return a, b


def _mask(values: ArrayLike) -> Mask:
    array = np.asarray(values)
    if array.dtype == bool:
        return array
    mask = array == 1
    if not np.array_equal(mask, array):
        raise ValueError("a mask holds 0 and 1; compare one structure at a time, as in label_map == value")
    return mask


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, ...]:
    """The smallest box that holds `mask`, grown by `margin` voxels inside the array; empty if `mask` is."""
    box = [slice(None)] * mask.ndim
    for axis, size in enumerate(mask.shape):
        # The extent along one axis narrows the search along the next.
        others = tuple(other for other in range(mask.ndim) if other != axis)
        inside = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not inside.size:
            return (slice(0, 0),) * mask.ndim
        box[axis] = slice(max(int(inside[0]) - margin, 0), min(int(inside[-1]) + 1 + margin, size))
    return tuple(box)


def common_box(a: Mask, b: Mask, margin: int = 0) -> tuple[slice, ...]:
    """The smallest box that holds both masks, without making their union."""
    first, second = bounding_box(a, margin), bounding_box(b, margin)
    if first[0].stop == 0 or second[0].stop == 0:
        return second if first[0].stop == 0 else first
    return tuple(
        slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(first, second, strict=True)
    )
