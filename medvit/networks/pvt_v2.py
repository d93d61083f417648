"""PVT v2: a pyramid transformer whose keys come from a reduced map (Wang et al. 2022, arXiv 2106.13797)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.published import PublishedNetwork

# Parameter modules keep the authors' names, so that a published state dict loads as it is. Feature maps are
# channels-last, (B, H, W, C).

_STAGES = 4
_NORM_EPS = 1e-6
_POOLED = 7


class Pyramid(NamedTuple):
    """Maps of an encoder (B, C, H, W), finest first, and logits (B, classes)."""

    maps: list[Tensor]
    logits: Tensor


class _Attention(nn.Module):
    """Every token attends to the tokens of a reduced map."""

    def __init__(self, dim: int, num_heads: int, reduction: int, qkv_bias: bool, linear: bool) -> None:
        super().__init__()
        self.num_heads, self.linear, self.reduction = num_heads, linear, reduction
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        if linear or reduction > 1:
            size = 1 if linear else reduction
            self.sr = nn.Conv2d(dim, dim, size, size)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        keys = x
        if self.linear:
            pooled = F.adaptive_avg_pool2d(x.movedim(-1, 1), _POOLED)
            keys = F.gelu(self.norm(self.sr(pooled).movedim(1, -1)))
        elif self.reduction > 1:
            keys = self.norm(self.sr(x.movedim(-1, 1)).movedim(1, -1))
        query = self.q(x).flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.kv(keys).flatten(1, 2).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value)
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class _DepthwiseConv(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x.movedim(-1, 1)).movedim(1, -1)


class _PVTFeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dwconv = _DepthwiseConv(hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(F.gelu(self.dwconv(F.relu(x) if self.linear else x)))


class _Block(nn.Module):
    def __init__(
        self, dim: int, num_heads: int, ratio: float, reduction: int, qkv_bias: bool, linear: bool
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS), nn.LayerNorm(dim, eps=_NORM_EPS)
        self.attn = _Attention(dim, num_heads, reduction, qkv_bias, linear)
        self.mlp = _PVTFeedForward(dim, int(dim * ratio), linear)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _OverlapEmbedding(nn.Module):
    def __init__(self, in_channels: int, dim: int, size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, size, stride, size // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H / stride, W / stride, dim)."""
        return self.norm(self.proj(x).movedim(1, -1))


class PVTv2(PublishedNetwork):
    """An encoder with four maps, from a quarter to a 32nd of an image of any size, and a classification head.

    Parameters
    ----------
    in_channels, num_classes
        Channels of the image, and labels of the head.
    embed_dims, num_heads, mlp_ratios, depths, reductions
        Settings of the four stages; the defaults are b1. `reductions` divide the sides of the map of keys.
    qkv_bias
        Whether query, key and value have a bias.
    linear
        Pool the map of keys to 7 x 7 instead, in every stage.

    References
    ----------
    Wang et al. 2022, "PVT v2: improved baselines with pyramid vision transformer", CVMJ.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        depths: Sequence[int] = (2, 2, 2, 2),
        reductions: Sequence[int] = (8, 4, 2, 1),
        qkv_bias: bool = True,
        linear: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels, *embed_dims]
        for stage in range(_STAGES):
            size, stride = (7, 4) if stage == 0 else (3, 2)
            dim = embed_dims[stage]
            blocks = (
                _Block(dim, num_heads[stage], mlp_ratios[stage], reductions[stage], qkv_bias, linear)
                for _ in range(depths[stage])
            )
            self.add_module(f"patch_embed{stage + 1}", _OverlapEmbedding(widths[stage], dim, size, stride))
            self.add_module(f"block{stage + 1}", nn.Sequential(*blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(dim, eps=_NORM_EPS))
        self.head = nn.Linear(embed_dims[-1], num_classes)
        self.apply(_init)

    def forward(self, image: Tensor) -> Pyramid:
        """Image (B, C, H, W) to its maps and logits."""
        x, maps = image, []
        for stage in range(1, _STAGES + 1):
            for name in ("patch_embed", "block", "norm"):
                x = getattr(self, f"{name}{stage}")(x)
            x = x.movedim(-1, 1)
            maps.append(x)
        return Pyramid(maps, self.head(x.mean(dim=(2, 3))))


def _init(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
    elif isinstance(layer, nn.Conv2d):
        fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
    if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
