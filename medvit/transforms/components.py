"""`LargestComponentd`: keeps the main part of each structure, and gives specks the label around them."""

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

# Least weight of a part that counts as being in the place of its structure: that at 1.8 times the reach.
_IN_PLACE = 0.2
# Smaller parts are specks wherever they are.
_SPECK_MM3 = 30.0


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
    in_parts
        Label values of structures that may have several parts, like a ventricle with narrow horns.
    """

    anchors: frozenset[int]
    offsets: Mapping[int, tuple[float, float, float]]
    reach: float = 20.0
    in_parts: frozenset[int] = frozenset()

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


@dataclass(frozen=True)
class _Anatomy:
    """Where structures belong in one label map.

    Parameters
    ----------
    places
        Typical positions.
    affine
        (4, 4), voxels to RAS mm.
    origin
        (3,) in mm, from which the positions count.
    """

    places: Places
    affine: np.ndarray
    origin: np.ndarray

    @property
    def speck(self) -> float:
        """Voxels below which a part is a speck."""
        return _SPECK_MM3 / abs(float(np.linalg.det(self.affine[:3, :3])))

    def weight(self, value: int, centre: np.ndarray) -> float:
        """Weight of a part of structure `value` whose centre lies at the voxel index `centre`."""
        return self.places.weight(value, self.affine[:3, :3] @ centre + self.affine[:3, 3], self.origin)


class LargestComponentd(MapTransform):
    """Keep one connected part of the labelled whole and one part of each compact structure.

    By size alone these are the largest parts. With `places`, parts count by size and by their distance from
    the place of their structure. The only part of a structure in its place is then kept even outside the
    whole, and so are separate parts in the place of a structure that may have several. Any other part takes
    the label that surrounds it most, which may be background.

    Parameters
    ----------
    keys
        Label maps (1, X, Y, Z).
    compact
        Label values of which each is one piece in a healthy body, except for those in ``places.in_parts``.
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
    origin = places.origin(labels, affine) if places is not None and affine is not None else None
    known = None
    if places is not None and affine is not None and origin is not None:
        known = _Anatomy(places, affine, origin)
    _keep_whole(labels, known)
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or value not in compact:
            continue
        wider = _wider(box, labels.shape)
        parts, count = ndimage.label(labels[wider] == value)
        if count > 1:
            start = np.array([s.start for s in wider])
            _absorb(labels[wider], parts, _kept_parts(parts, count, value, start, known))
    return labels


def _keep_whole(labels: np.ndarray, known: _Anatomy | None) -> None:
    """Make everything outside the labelled whole background, in place."""
    pieces, count = ndimage.label(labels)
    if count < 2:
        return
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    whole = int(np.argmax(sizes))
    outside = (pieces > 0) & (pieces != whole)
    if known is not None and np.count_nonzero(outside) >= known.speck:
        shares = _shares(labels, pieces, known)
        evidence = np.zeros(count + 1)
        for piece, _, size, weight in shares:
            evidence[piece] += size * weight
        if evidence.any():
            whole = int(np.argmax(evidence))
        outside = (pieces > 0) & (pieces != whole)
        there = {value for piece, value, _, _ in shares if piece == whole}
        for piece, value, size, weight in shares:
            if value not in there and weight >= _IN_PLACE and size >= known.speck:
                outside &= ~((pieces == piece) & (labels == value))
    labels[outside] = 0


def _shares(labels: np.ndarray, pieces: np.ndarray, known: _Anatomy) -> list[tuple[int, int, float, float]]:
    """Piece, structure, voxels and weight by place of what each piece holds of structures of known place."""
    placed = np.isin(labels, list(known.places.offsets))
    indices = np.argwhere(placed)
    keys, which = np.unique(
        pieces[placed].astype(np.int64) * (int(labels.max()) + 1) + labels[placed], return_inverse=True
    )
    sizes = np.bincount(which).astype(float)
    centres = np.stack([np.bincount(which, axis) for axis in indices.T], axis=1) / sizes[:, None]
    found = []
    for key, size, centre in zip(keys.tolist(), sizes.tolist(), centres, strict=True):
        piece, value = divmod(key, int(labels.max()) + 1)
        found.append((piece, value, size, known.weight(value, centre)))
    return found


def _kept_parts(
    parts: np.ndarray, count: int, value: int, start: np.ndarray, known: _Anatomy | None
) -> frozenset[int]:
    """The parts of a structure to keep; `start` is the voxel at which the array of `parts` begins."""
    sizes = np.bincount(parts.ravel())[1:].astype(float)
    if known is None:
        return frozenset({int(np.argmax(sizes)) + 1})
    centres = ndimage.center_of_mass(parts > 0, parts, range(1, count + 1))
    weights = np.array([known.weight(value, np.asarray(centre) + start) for centre in centres])
    kept = {int(np.argmax(sizes * weights)) + 1}
    if value in known.places.in_parts:
        kept |= {int(n) + 1 for n in np.flatnonzero((weights >= _IN_PLACE) & (sizes >= known.speck))}
    return frozenset(kept)


def _absorb(view: np.ndarray, parts: np.ndarray, kept: frozenset[int]) -> None:
    """Give all `parts` except those that are `kept` the label that surrounds them in `view`, in place."""
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        if part not in kept:
            box = _wider(box, view.shape)
            speck = parts[box] == part
            shell = ndimage.binary_dilation(speck) & ~speck
            around = view[box][shell]
            view[box][speck] = np.bincount(around).argmax() if around.size else 0


def _wider(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(box, shape, strict=True))
