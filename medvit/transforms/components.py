"""`LargestComponentd`: keeps structures in one piece and gives specks the label around them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage


@dataclass(frozen=True)
class Places:
    """Typical positions of structures in the body.

    Parameters
    ----------
    anchors
        Label values of which the voxels' median is the origin.
    offsets
        Label value to the centre of its structure in mm from there: to the right, to the front, upwards.
    reach
        Distance in mm at which a part counts three fifths of its volume.
    """

    anchors: frozenset[int]
    offsets: Mapping[int, tuple[float, float, float]]
    reach: float = 20.0

    def origin(self, labels: np.ndarray, affine: np.ndarray) -> np.ndarray | None:
        """(3,) origin in mm; `None` where there is no anchor."""
        there = np.argwhere(np.isin(labels, list(self.anchors)))
        if not len(there):
            return None
        return affine[:3, :3] @ np.median(there, axis=0) + affine[:3, 3]

    def weight(self, value: int, centre: np.ndarray, origin: np.ndarray) -> float:
        """Weight of each voxel of a part of structure `value` whose centre lies at `centre`, in mm."""
        if value not in self.offsets:
            return 1.0
        distance = float(np.linalg.norm(centre - origin - np.asarray(self.offsets[value])))
        return float(np.exp(-0.5 * (distance / self.reach) ** 2))


class LargestComponentd(MapTransform):
    """Keep the largest connected part of the labelled whole and one part of each compact structure.

    Labels outside of the largest part become background. Of a compact structure, the largest part
    is kept, and a part that lies where the structure belongs counts more than one that does not. A further
    part takes the label that surrounds it most, background included.

    Parameters
    ----------
    keys
        Label maps (1, X, Y, Z).
    compact
        Label values of which each is one piece in a healthy body.
    places
        Typical positions of structures; by default, or without an affine, size alone decides.
    """

    def __init__(
        self, keys: KeysCollection, compact: Sequence[int] = (), places: Places | None = None
    ) -> None:
        super().__init__(keys)
        self.compact = frozenset(compact)
        self.places = places

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its label maps cleaned."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels = result[key]
            affine = np.asarray(labels.affine, np.float64) if isinstance(labels, MetaTensor) else None
            cleaned = largest_components(labels.squeeze(0).cpu().numpy(), self.compact, self.places, affine)
            tensor = torch.from_numpy(cleaned)[None].to(labels.device)
            result[key] = MetaTensor(tensor, meta=labels.meta) if isinstance(labels, MetaTensor) else tensor
        return result


def largest_components(
    labels: np.ndarray,
    compact: frozenset[int],
    places: Places | None = None,
    affine: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of (X, Y, Z) `labels` with specks removed; parts are connected through faces.

    Parameters
    ----------
    compact, places
        As of `LargestComponentd`.
    affine
        (4, 4), voxels to RAS mm; without it, size alone decides.
    """
    labels = labels.copy()
    whole, count = ndimage.label(labels)
    if count > 1:
        labels[whole != np.argmax(np.bincount(whole.ravel())[1:]) + 1] = 0
    origin = places.origin(labels, affine) if places is not None and affine is not None else None
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or value not in compact:
            continue
        wider = _wider(box, labels.shape)
        parts, count = ndimage.label(labels[wider] == value)
        if count < 2:
            continue
        score = np.bincount(parts.ravel())[1:].astype(float)
        if places is not None and origin is not None and affine is not None:
            start = [s.start for s in wider]
            for part, centre in enumerate(ndimage.center_of_mass(parts > 0, parts, range(1, count + 1))):
                place = affine[:3, :3] @ (np.asarray(centre) + start) + affine[:3, 3]
                score[part] *= places.weight(value, place, origin)
        _absorb(labels[wider], parts, int(np.argmax(score)) + 1)
    return labels


def _absorb(view: np.ndarray, parts: np.ndarray, kept: int) -> None:
    """Give all `parts` except the one that is `kept` the label that surrounds them in `view`, in place."""
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        if part != kept:
            box = _wider(box, view.shape)
            speck = parts[box] == part
            shell = ndimage.binary_dilation(speck) & ~speck
            around = view[box][shell]
            view[box][speck] = np.bincount(around).argmax() if around.size else 0


def _wider(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(box, shape, strict=True))
