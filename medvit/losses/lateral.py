"""The loss of a segmenter that predicts structures and sides in separate channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.losses.dice_ce import SparseDiceCELoss
from medvit.studies.labels import load_label_table


class LateralDiceCELoss(nn.Module):
    """Dice and cross-entropy of the structures, and binary cross-entropy of the side inside paired ones.

    Fits the channels that `medvit.networks.LateralSegmenter` reads: background, each structure of the
    table once, and the side.

    Parameters
    ----------
    table
        Name of a label table; targets hold its values.
    dice_weight
        Weight of the Dice term, as in `SparseDiceCELoss`.
    """

    structure_of: Tensor
    side_of: Tensor

    def __init__(self, table: str, dice_weight: float = 1.0) -> None:
        super().__init__()
        structures = load_label_table(table).structures
        names = list(dict.fromkeys(s.unsided_name for s in structures))
        sides = {"": -1, "left": 0, "right": 1}
        self.register_buffer(
            "structure_of", torch.tensor([0] + [names.index(s.unsided_name) + 1 for s in structures])
        )
        self.register_buffer("side_of", torch.tensor([-1] + [sides[s.side] for s in structures]))
        self.dice_ce = SparseDiceCELoss(dice_weight=dice_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of channels (B, structures + 2, ...) against label values (B, 1, ...)."""
        target = target.long()
        side = self.side_of[target]
        paired = (side >= 0).float()
        loss = self.dice_ce(logits[:, :-1], self.structure_of[target])
        # A masked mean, because selecting the paired voxels would wait for the device to count them.
        each = F.binary_cross_entropy_with_logits(
            logits[:, -1:].float(), side.clamp_min(0).float(), reduction="none"
        )
        return loss + (each * paired).sum() / paired.sum().clamp_min(1)
