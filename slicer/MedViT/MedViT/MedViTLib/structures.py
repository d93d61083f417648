"""A subset of the structures of a bundle, as a user types it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .compute import Result
from .errors import MedViTError
from .volume import Volume


def wanted(text: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels named in a list with commas; all labels if it is empty.

    A name without its side means both: ``hippocampus`` is ``left hippocampus`` and ``right hippocampus``.

    Raises
    ------
    MedViTError
        If the bundle has no structure of a name.
    """
    names = [" ".join(name.lower().split()) for name in text.split(",") if name.strip()]
    chosen = set()
    for name in names:
        found = {k for k in labels if k.lower() in (name, f"left {name}", f"right {name}")}
        if not found:
            raise MedViTError(f"the bundle has no structure {name!r}; it has {', '.join(labels)}")
        chosen |= found
    return tuple(k for k in labels if k in chosen) if names else labels


def subset(result: Result, text: str) -> Result:
    """`result` with the wanted structures only; their values stay as they are."""
    names = wanted(text, result.labels)
    if names == result.labels:
        return result
    kept = [result.labels.index(name) + 1 for name in names]
    voxels = np.where(np.isin(result.volume.voxels, kept), result.volume.voxels, 0)
    volume = Volume(voxels.astype(result.volume.voxels.dtype), result.volume.affine, result.volume.name)
    volumes = {name: ml for name, ml in result.volumes_ml.items() if name in names}
    return replace(result, volume=volume, volumes_ml=volumes)
