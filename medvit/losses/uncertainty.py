"""Several losses combined by learnt weights, the uncertainty of each task (Kendall et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss


class UncertaintyWeightedLoss(_Loss):
    """Sum of ``exp(-s) * loss / 2 + s / 2`` over the losses, where each ``s`` is learnt.

    ``s`` is the logarithm of the variance of a task: a loss that stays high weighs less. Its parameters go to
    the optimiser beside those of the network.

    Parameters
    ----------
    losses
        Losses of one output and one target.

    References
    ----------
    Kendall, Gal, Cipolla 2018, "Multi-task learning using uncertainty to weigh losses for scene geometry and
    semantics", CVPR.
    """

    def __init__(self, losses: Sequence[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.log_variances = nn.Parameter(torch.zeros(len(self.losses)))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The joint loss of an output and its target."""
        values = torch.stack([loss(output, target) for loss in self.losses])
        return 0.5 * ((-self.log_variances).exp() * values + self.log_variances).sum()
