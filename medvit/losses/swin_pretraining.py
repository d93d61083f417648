"""The loss of Swin UNETR's self-supervised pre-training (Tang et al. 2022, arXiv 2111.14791)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.losses import ContrastiveLoss
from torch import Tensor, nn


class SwinPretrainingLosses(NamedTuple):
    """The loss and its three parts."""

    total: Tensor
    rotation: Tensor
    contrast: Tensor
    reconstruction: Tensor


class SwinPretrainingLoss(nn.Module):
    """Rotation by cross-entropy, contrast between two views, and reconstruction by L1, with equal weights.

    Parameters
    ----------
    temperature
        Temperature of the contrast.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.contrast = ContrastiveLoss(temperature)

    def forward(
        self,
        rotation: Tensor,
        turns: Tensor,
        first: Tensor,
        second: Tensor,
        reconstruction: Tensor,
        target: Tensor,
    ) -> SwinPretrainingLosses:
        """Compare the heads' predictions for both views of a batch with the truth.

        Parameters
        ----------
        rotation, turns
            Logits (2B, 4) of the stacked views, and the quarters by which each was turned (2B,).
        first, second
            Contrast vectors of the two views, (B, 512) each.
        reconstruction, target
            Reconstructions and targets of the stacked views (2B, C, *size); the target is the turned view
            without cut-outs.
        """
        parts = (
            F.cross_entropy(rotation, turns),
            self.contrast(first, second),
            F.l1_loss(reconstruction, target),
        )
        return SwinPretrainingLosses(torch.stack(parts).sum(), *parts)
