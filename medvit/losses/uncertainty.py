"""Several losses combined by learnt weights, the uncertainty of each task (Liebel and Körner 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss


class UncertaintyWeightedLoss(_Loss):
    """Automatic weighted loss: the sum of ``loss / (2 s^2) + ln(1 + s^2)``, where each ``s`` is learnt.

    ``s`` is the uncertainty of a task, 1 at the start: a loss that stays high weighs less. The sum is never
    negative. The parameters go to the optimiser beside those of the network.

    Parameters
    ----------
    losses
        Losses of one output and one target.

    References
    ----------
    Kendall, Gal, Cipolla 2018, "Multi-task learning using uncertainty to weigh losses for scene geometry and
    semantics", CVPR; with the regulariser of Liebel, Körner 2018, "Auxiliary tasks in multi-task learning",
    arXiv 1805.06334.
    """

    def __init__(self, losses: Sequence[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.uncertainties = nn.Parameter(torch.ones(len(self.losses)))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The joint loss of an output and its target."""
        values = torch.stack([loss(output, target) for loss in self.losses])
        variances = self.uncertainties.square()
        return (0.5 * values / variances + variances.log1p()).sum()
