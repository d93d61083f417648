"""Loading of weights into a bundle's network: either all of them or a clear error."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from medvit.errors import WeightsError
from medvit.networks.published import load_strictly, read_checkpoint


def load_weights(network: nn.Module, checkpoint: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """`network` on `device`, in evaluation mode, filled from a state dict in any floating precision.

    Raises
    ------
    WeightsError
        If the file is missing or unsafe to open, or an entry is missing, unexpected or of the wrong shape.
    """
    state = read_checkpoint(checkpoint)
    try:
        load_strictly(network, state, dict)
    except WeightsError as error:
        raise WeightsError(f"{checkpoint}: {error}") from None
    return network.to(device).eval()
