"""`HeadBank`: annotated heads on one device, to be looked up by whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medvit.synthesis.atlas import HeadMap


class HeadBank:
    """Several heads end to end.

    Parameters
    ----------
    heads
        Heads on one device.
    """

    def __init__(self, heads: Sequence[HeadMap]) -> None:
        self.sizes = [tuple(head.tissue.shape) for head in heads]
        lengths = torch.tensor([head.tissue.numel() for head in heads])
        self._starts = lengths.cumsum(0) - lengths
        self.tissue, self.structure = (
            parts[0] if len(parts) == 1 else torch.cat(parts)
            for parts in (
                [head.tissue.flatten() for head in heads],
                [head.structure.flatten() for head in heads],
            )
        )
        self.centres = torch.stack([head.centre for head in heads])

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def device(self) -> torch.device:
        """Device of the heads."""
        return self.tissue.device

    def nearest(self, which: Sequence[int], points: Tensor) -> Tensor:
        """Places in `tissue` and `structure` of the voxels nearest to points; a head's border beyond it.

        Parameters
        ----------
        which
            Head of each sample.
        points
            (B, 3, X, Y, Z) in voxels of the heads.

        Returns
        -------
        Tensor
            (B, X, Y, Z) int64.
        """
        places = []
        for number, sample in zip(which, points, strict=True):
            size = self.sizes[number]
            # Integers up to 2^24 are exact in float32, and one conversion of the index is cheaper than three.
            exact = torch.float32 if size[0] * size[1] * size[2] <= 2**24 else torch.float64
            index = torch.zeros(sample.shape[1:], dtype=exact, device=sample.device)
            for coordinate, edge in zip(sample, size, strict=True):
                index.mul_(edge).add_(coordinate.round().clamp_(0, edge - 1))
            places.append(index.long().add_(int(self._starts[number])))
        return torch.stack(places)
