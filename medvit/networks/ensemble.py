"""Several segmenters as one: the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Logarithm of the mean of the members' softmax probabilities, whose softmax is that mean.

    Parameters
    ----------
    networks
        Segmenters that map an image (B, C, ...) to logits (B, classes, ...) of the same classes.

    Raises
    ------
    ValueError
        If there are no members.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("an ensemble needs members")
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, C, ...) to logits (B, classes, ...), one member after the other."""
        total = self.networks[0](image).log_softmax(1)
        for network in self.networks[1:]:
            total = torch.logaddexp(total, network(image).log_softmax(1))
        return total - math.log(len(self.networks))
