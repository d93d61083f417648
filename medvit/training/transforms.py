"""Transforms of trainings: mirroring that swaps left and right, and voxels without a label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform


class UnlabelledAsBackgroundd(MapTransform):
    """Sets unlabelled voxels of prediction and label map to background, so that no score counts them.

    Parameters
    ----------
    keys
        Predictions.
    value
        Value of unlabelled voxels in the label map (`Manifest.to_table`).
    label_key
        Key of the label map.
    """

    def __init__(self, keys: KeysCollection, value: int, label_key: str = "label") -> None:
        super().__init__(keys)
        self.value, self.label_key = value, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with both set to 0 there."""
        result = dict(data)
        unlabelled = result[self.label_key] == self.value
        if unlabelled.any():
            for key in (*self.key_iterator(result), self.label_key):
                result[key] = result[key].masked_fill(unlabelled, 0)
        return result


class MirrorLeftRightd(RandomizableTransform, MapTransform):
    """Mirrors images and their label map, in which left and right structures then swap.

    Parameters
    ----------
    keys
        Tensors (C, ...), the label map included.
    label_key
        Key of the label map.
    pairs
        Values of left and right of each paired structure.
    axis
        The spatial axis that runs from left to right.
    prob
        Probability of mirroring.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        pairs: Sequence[Sequence[int]] = (),
        axis: int = 0,
        prob: float = 0.5,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.label_key, self.pairs, self.axis = label_key, pairs, axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data`, mirrored or as it is."""
        result = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        for key in self.key_iterator(result):
            result[key] = torch.flip(result[key], (self.axis + 1,))
        before = result[self.label_key]
        after = before.clone()
        for left, right in self.pairs:
            after[before == left], after[before == right] = right, left
        result[self.label_key] = after
        return result
