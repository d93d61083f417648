"""Weights into a bundle's network: all of them or a clear refusal, never a network left at random."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from medvit.engines.done import sha256_of as sha256_of
from medvit.errors import WeightsError
from medvit.networks.published import read_checkpoint


def load_weights(network: nn.Module, checkpoint: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """`network` on `device`, in evaluation mode, filled from a state dict in any floating precision.

    Raises
    ------
    WeightsError
        If the file is missing or unsafe to open, or an entry is missing, left over or of another shape.
    """
    state = read_checkpoint(checkpoint)
    own = network.state_dict()
    missing, left_over = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [name for name in set(own) & set(state) if own[name].shape != state[name].shape]
    if missing or left_over or shapes:
        raise WeightsError(
            f"{checkpoint} does not fit {type(network).__name__}: {len(missing)} entries missing, "
            f"{len(left_over)} left over, {len(shapes)} of another shape"
            f" (first: {(missing + left_over + shapes)[0]})"
        )
    network.load_state_dict(state)
    return network.to(device).eval()
