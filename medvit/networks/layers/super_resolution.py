"""Parts that the super-resolution transformers share: windows, offsets within them, enlargement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from medvit.errors import WeightsError

# Mean of the authors' natural training images (DIV2K), subtracted from images of three channels.
_RGB_MEAN = (0.4488, 0.4371, 0.4040)


def rgb_mean(channels: int) -> Tensor:
    """Mean to subtract from the image, (1, C, 1, 1): that of natural images for three channels, else 0."""
    return torch.tensor(_RGB_MEAN if channels == 3 else (0.0,) * channels).reshape(1, -1, 1, 1)


def windows_of(x: Tensor, height: int, width: int = 0) -> Tensor:
    """Map (B, H, W, C) to its windows (B * windows, height * width, C); `width` is `height` unless given."""
    width = width or height
    b, h, w, c = x.shape
    x = x.reshape(b, h // height, height, w // width, width, c)
    return x.transpose(2, 3).reshape(-1, height * width, c)


def windows_to_map(x: Tensor, window: int | tuple[int, int], height: int, width: int) -> Tensor:
    """Windows (B * windows, n, C) back to the map (B, height, width, C)."""
    rows, columns = (window, window) if isinstance(window, int) else window
    x = x.reshape(-1, height // rows, width // columns, rows, columns, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


def window_offsets(window: int, keys: int, device: torch.device, *, wrapped: bool = True) -> Tensor:
    """Row of a bias table for each query of a square window and each key of another one around it.

    Parameters
    ----------
    window, keys
        Sides of the windows of queries and keys.
    wrapped
        Whether negative rows, which count from the table's end, are given as positive ones.

    Returns
    -------
    Tensor
        Integers (window ** 2, keys ** 2).
    """
    query, key = (torch.cartesian_prod(*[torch.arange(n, device=device)] * 2) for n in (window, keys))
    if keys == window:
        rows, columns = (query[:, None] - key[None] + window - 1).unbind(-1)
        return rows * (2 * window - 1) + columns
    # The authors' table of the wider window is indexed from key to query, and below zero for most pairs.
    rows, columns = (key[None] - query[:, None] + window - keys + 1).unbind(-1)
    side = window + keys - 1
    index = rows * side + columns
    return index % side**2 if wrapped else index


def upsampler(dim: int, upscale: int) -> nn.Sequential:
    """Convolutions and pixel shuffles that enlarge (B, dim, H, W) by 1, 3 or a power of two.

    Raises
    ------
    ValueError
        For another factor.
    """
    layers: list[nn.Module] = []
    if upscale == 3:
        layers = [nn.Conv2d(dim, 9 * dim, 3, padding=1), nn.PixelShuffle(3)]
    elif upscale >= 1 and 2 ** int(math.log2(upscale)) == upscale:
        for _ in range(int(math.log2(upscale))):
            layers += [nn.Conv2d(dim, 4 * dim, 3, padding=1), nn.PixelShuffle(2)]
    else:
        raise ValueError(f"upscale must be 1, 3 or a power of two, not {upscale}")
    return nn.Sequential(*layers)


def checked_tables(
    state: Mapping[str, Tensor], own: Mapping[str, Sequence[Tensor]], network: str
) -> tuple[str, ...]:
    """Names of the tables of indices or coordinates in a checkpoint, each one that the network may have.

    Raises
    ------
    WeightsError
        If they differ: the checkpoint is of a network with other windows.
    """
    for name, tables in own.items():
        if name in state and not any(torch.equal(state[name].to(table), table) for table in tables):
            raise WeightsError(
                f"the checkpoint does not fit {network}: {name} belongs to another window size"
            )
    return tuple(name for name in own if name in state)
