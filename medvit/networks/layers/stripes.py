"""Attention within stripes that cross each other: the block of the CSWin transformers, in 2D and 3D."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.networks.layers import DropPath
from torch import Tensor, nn

from medvit.networks.layers.vit import Mlp

# Window of one group of channels along each axis; None stands for the whole axis.
Stripe = tuple[int | None, ...]

# Feature maps are channels-last: (B, *size, C).


def crossed_stripes(width: int, *, whole: bool = False) -> tuple[Stripe, ...]:
    """Stripes of a 2D block: full height for the first half of the channels, full width for the second.

    Parameters
    ----------
    width
        Width of the stripes in tokens.
    whole
        Whether the map is one window, as in the last stage.
    """
    return ((None, None),) if whole else ((None, width), (width, None))


class _Windows(NamedTuple):
    """How a map is cut into the windows of one group of channels.

    Parameters
    ----------
    size, window, counts
        Size of the map and of a window in tokens, and number of windows along each axis.
    margins
        Tokens of zeros before and after each axis.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    counts: tuple[int, ...]
    margins: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, size: Sequence[int], stripe: Stripe) -> _Windows:
        """Windows of `stripe` on a map of `size`, padded evenly on both sides if necessary."""
        window = tuple(w or n for w, n in zip(stripe, size, strict=True))
        lack = [-n % w for n, w in zip(size, window, strict=True)]
        counts = tuple((n + more) // w for n, more, w in zip(size, lack, window, strict=True))
        return cls(tuple(size), window, counts, tuple((more // 2, more - more // 2) for more in lack))

    def cut(self, x: Tensor) -> Tensor:
        """(B, *size, 3, C) to (B * windows, tokens, 3, C)."""
        if any(map(any, self.margins)):
            x = F.pad(x, [0, 0, 0, 0, *itertools.chain.from_iterable(reversed(self.margins))])
        axes = len(self.window)
        x = x.reshape(
            len(x), *itertools.chain.from_iterable(zip(self.counts, self.window, strict=True)), *x.shape[-2:]
        )
        order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 1 + 2 * axes, 2 + 2 * axes]
        return x.permute(order).reshape(-1, math.prod(self.window), *x.shape[-2:])

    def join(self, x: Tensor) -> Tensor:
        """(B * windows, tokens, C) to (B, *size, C)."""
        axes = len(self.window)
        x = x.reshape(-1, *self.counts, *self.window, x.shape[-1])
        order = [0, *itertools.chain.from_iterable((1 + a, 1 + axes + a) for a in range(axes)), 1 + 2 * axes]
        grid = [n * w for n, w in zip(self.counts, self.window, strict=True)]
        x = x.permute(order).reshape(-1, *grid, x.shape[-1])
        inside = (slice(before, before + n) for (before, _), n in zip(self.margins, self.size, strict=True))
        return x[(slice(None), *inside)]


class _Position(nn.Module):
    """Depthwise convolution of the values, which encodes position and ends at the stripe's border (LePE)."""

    def __init__(self, dim: int, spatial_dims: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.get_v = convolution(dim, dim, 3, padding=1, groups=dim)

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, *window) to the same shape."""
        return self.get_v(values)


class CSwinBlock(nn.Module):
    """Cross-shaped attention and a feed-forward part, each added to its input.

    The channels are divided into as many groups as there are `stripes`, each with its share of the heads. A
    side that is not a multiple of its stripes is padded with tokens whose query, key and value are zero,
    which take part in the softmax, as in the authors' code.

    Parameters
    ----------
    dim, num_heads
        Channels and heads, multiples of the number of stripes.
    stripes
        Window of each group of channels.
    mlp_ratio, qkv_bias, drop_path
        As in other transformers; stochastic depth acts while training.

    References
    ----------
    Dong et al. 2022, "CSWin transformer: a general vision transformer backbone with cross-shaped windows",
    CVPR.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        stripes: Sequence[Stripe],
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        groups, spatial_dims = len(stripes), len(stripes[0])
        if dim % groups or num_heads % groups or dim % num_heads:
            raise ValueError(f"{groups} groups of stripes cannot share {dim} channels of {num_heads} heads")
        self.num_heads, self.stripes = num_heads, tuple(stripes)
        self.drop_path = DropPath(drop_path)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=qkv_bias), nn.Linear(dim, dim)
        self.attns = nn.ModuleList(_Position(dim // groups, spatial_dims) for _ in stripes)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """(B, *size, C) to the same shape."""
        x = x + self.drop_path(self.proj(self._attended(self.qkv(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attended(self, qkv: Tensor) -> Tensor:
        size = qkv.shape[1:-1]
        groups = [_Windows.of(size, stripe) for stripe in self.stripes]
        parts = qkv.unflatten(-1, (3, len(self.stripes), -1)).unbind(-2)
        tokens = [group.cut(part) for group, part in zip(groups, parts, strict=True)]
        attended = self._attend(tokens)
        joined = []
        for group, position, y, part in zip(groups, self.attns, attended, tokens, strict=True):
            values = part[:, :, 2].transpose(1, 2).unflatten(2, group.window)
            joined.append(group.join(y + position(values).flatten(2).transpose(1, 2)))
        return torch.cat(joined, dim=-1)

    def _attend(self, tokens: list[Tensor]) -> list[Tensor]:
        """Attention within the windows (N, tokens, 3, C) of each group; one call if all are equally large."""
        heads = self.num_heads // len(tokens)
        split = [t.unflatten(-1, (heads, -1)).permute(2, 0, 3, 1, 4) for t in tokens]
        if len({t.shape[3] for t in split}) == 1:
            counts = [t.shape[1] for t in split]
            attended = F.scaled_dot_product_attention(*torch.cat(split, dim=1)).split(counts)
        else:
            attended = tuple(F.scaled_dot_product_attention(*t) for t in split)
        return [y.transpose(1, 2).flatten(2) for y in attended]
