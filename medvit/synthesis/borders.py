"""Borders of a target drawn more tightly or more widely than in the label maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.studies.labels import LabelTable

_DEVIATION = 0.8  # of the Gaussian that weighs a voxel's neighbours, in voxels
_REACH = 2  # voxels


class BorderWeights:
    """Another protocol's borders for a target: a weighted vote decides each voxel near a border.

    Raters of different protocols put the border of a structure in different places. Label maps of one can
    teach another's borders, as far as these are parallel: every label in the neighbourhood of a voxel votes
    for itself with a Gaussian weight times the weight of its structure, and the label with the most votes
    gets the voxel. At a flat border towards a structure of weight 1, a structure of weight w ends where its
    share of the neighbourhood is 1 / (1 + w), so it recedes if w < 1 and advances if w > 1. A border between
    structures of equal weights stays, and so does every border between structures of weight 1.

    Parameters
    ----------
    table
        Labels of the target.
    weights
        Structure, without its side, to its weight, above 0.

    Raises
    ------
    ValueError
        If a structure is not in the table, or a weight is not above 0.
    """

    def __init__(self, table: LabelTable, weights: Mapping[str, float]) -> None:
        unknown = set(weights) - {structure.unsided_name for structure in table.structures}
        if unknown:
            raise ValueError(f"no structures of table {table.name}: {', '.join(sorted(unknown))}")
        if any(not weight > 0 for weight in weights.values()):
            raise ValueError("weights of borders must be above 0")
        self.weights = torch.ones(len(table) + 1)
        for structure in table.structures:
            self.weights[structure.value] = weights.get(structure.unsided_name, 1.0)

    def __call__(self, target: Tensor) -> Tensor:
        """(B, X, Y, Z) uint8 labels with borders drawn anew.

        Only voxels that touch another label can change, so a border moves by a voxel at most.
        """
        weights = self.weights.to(target.device)
        weighted = weights != 1
        labels = target[:, None].float()
        # The extremes of 3x3x3 voxels differ exactly where a border runs through them.
        border = F.max_pool3d(labels, 3, 1, 1) + F.max_pool3d(-labels, 3, 1, 1) > 0
        near = F.max_pool3d(weighted[target.long()][:, None].float(), 3, 1, 1) > 0
        place = torch.nonzero((border & near)[:, 0])
        votes = torch.zeros(len(place), len(weights), device=target.device)
        around = F.pad(labels, (_REACH,) * 6, mode="replicate")[:, 0].to(target.dtype)
        row = torch.arange(len(place), device=target.device)
        number, x, y, z = place.unbind(dim=1)
        for i, j, k in product(range(2 * _REACH + 1), repeat=3):
            squared = sum((n - _REACH) ** 2 for n in (i, j, k))
            share = math.exp(-squared / (2 * _DEVIATION**2))
            votes[row, around[number, x + i, y + j, z + k].long()] += share
        old, new = target[number, x, y, z].long(), (votes * weights).argmax(dim=1)
        new = torch.where(weighted[old] | weighted[new], new, old)
        redrawn = target.clone()
        redrawn[number, x, y, z] = new.to(target.dtype)
        return redrawn
