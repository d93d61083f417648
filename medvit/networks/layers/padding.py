"""Pads images to the multiple that a network's windows need, and crops the output back."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from medvit.errors import MedvitError


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Mirror the right and the lower border of (B, C, H, W) until both sides are multiples of `multiple`.

    Raises
    ------
    MedvitError
        If a side is too short to be mirrored that far.
    """
    height, width = x.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if down >= height or right >= width:
        raise MedvitError(
            f"an image of {height} x {width} pixels is too small to be mirrored to a multiple of {multiple}"
        )
    return F.pad(x, (0, right, 0, down), mode="reflect") if down or right else x


def crop_to(y: Tensor, height: int, width: int) -> Tensor:
    """The upper left `height` x `width` pixels of (B, C, H, W)."""
    return y[..., :height, :width]
