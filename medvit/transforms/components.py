"""`LargestComponentd`: structures in one piece, specks given back to what surrounds them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage


class LargestComponentd(MapTransform):
    """Keep the largest connected part of the labelled whole and of each compact structure.

    What is labelled apart from the largest whole becomes background. A further part of a compact structure
    takes the label that surrounds it most, background included.

    Parameters
    ----------
    keys
        Label maps (1, X, Y, Z).
    compact
        Label values of which each is one piece in a healthy body.
    """

    def __init__(self, keys: KeysCollection, compact: Sequence[int] = ()) -> None:
        super().__init__(keys)
        self.compact = frozenset(compact)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its label maps cleaned."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels = result[key]
            cleaned = largest_components(labels.squeeze(0).cpu().numpy(), self.compact)
            tensor = torch.from_numpy(cleaned)[None].to(labels.device)
            result[key] = MetaTensor(tensor, meta=labels.meta) if isinstance(labels, MetaTensor) else tensor
        return result


def largest_components(labels: np.ndarray, compact: frozenset[int]) -> np.ndarray:
    """A copy of (X, Y, Z) `labels` with specks removed; parts are connected through faces."""
    labels = labels.copy()
    whole, count = ndimage.label(labels)
    if count > 1:
        labels[whole != np.argmax(np.bincount(whole.ravel())[1:]) + 1] = 0
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None and value in compact:
            _absorb_specks(labels[_wider(box, labels.shape)], value)
    return labels


def _absorb_specks(view: np.ndarray, value: int) -> None:
    """Give all but the largest part of `value` in `view` to what surrounds it, in place."""
    parts, count = ndimage.label(view == value)
    if count < 2:
        return
    largest = np.argmax(np.bincount(parts.ravel())[1:]) + 1
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        if part != largest:
            box = _wider(box, view.shape)
            speck = parts[box] == part
            shell = ndimage.binary_dilation(speck) & ~speck
            around = view[box][shell]
            view[box][speck] = np.bincount(around).argmax() if around.size else 0


def _wider(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(box, shape, strict=True))
