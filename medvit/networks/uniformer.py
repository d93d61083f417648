"""UniFormer: convolutional stages, then stages of global attention (Li et al. 2022, arXiv 2201.04676)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers.vit import BLOCK_NAMES, SelfAttention, init_linear_layers
from medvit.networks.published import PublishedNetwork, StateDict, rename
from medvit.networks.pvt_v2 import Pyramid

# Parameter modules keep the authors' names, except those of the attention.

_STAGES = 4
_NORM_EPS = 1e-6
_LAYER_SCALE = 1e-6


class _ConvMlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _ConvBlock(nn.Module):
    """A 5x5 depthwise convolution where others attend, and a perceptron, on (B, C, H, W)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2 = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)
        self.conv1, self.conv2 = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.mlp = _ConvMlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class _AttentionBlock(nn.Module):
    """Global attention and a perceptron, on (B, C, H, W)."""

    def __init__(self, dim: int, hidden: int, num_heads: int, qkv_bias: bool, layer_scale: bool) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS), nn.LayerNorm(dim, eps=_NORM_EPS)
        self.attention = SelfAttention(dim, num_heads, qkv_bias=qkv_bias)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim), nn.Identity()
        )
        self.layer_scale = layer_scale
        if layer_scale:
            self.gamma_1, self.gamma_2 = (nn.Parameter(_LAYER_SCALE * torch.ones(dim)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        tokens = x.flatten(2).transpose(1, 2)
        attended = self.attention(self.norm1(tokens))
        tokens = tokens + (self.gamma_1 * attended if self.layer_scale else attended)
        mixed = self.mlp(self.norm2(tokens))
        tokens = tokens + (self.gamma_2 * mixed if self.layer_scale else mixed)
        return tokens.transpose(1, 2).reshape(x.shape)


class _UniFormerEmbedding(nn.Module):
    """Half or a quarter of the size, by one convolution of patches and a layer norm."""

    def __init__(self, in_channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)


class _ConvStem(nn.Module):
    """Half or a quarter of the size, by overlapping convolutions and batch norms."""

    def __init__(self, in_channels: int, dim: int, patch: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if patch == 4:
            layers = [nn.Conv2d(in_channels, dim // 2, 3, 2, 1), nn.BatchNorm2d(dim // 2), nn.GELU()]
            in_channels = dim // 2
        self.proj = nn.Sequential(*layers, nn.Conv2d(in_channels, dim, 3, 2, 1), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class UniFormer(PublishedNetwork):
    """An encoder with four maps, from a quarter to a 32nd of an image of any size, and a classification head.

    Parameters
    ----------
    in_channels, num_classes
        Channels of the image, and labels of the head.
    embed_dims, depths
        Settings of the four stages; the defaults are the published small network.
    head_dim
        Channels of a head of the two stages that attend.
    mlp_ratio, qkv_bias
        Ratio of the feed-forward width, and whether queries, keys and values have a bias.
    conv_stem
        Overlapping convolutions instead of patches before each stage.
    layer_scale
        Weigh both branches of an attention block by learnt factors.

    References
    ----------
    Li et al. 2022, "UniFormer: unifying convolution and self-attention for visual recognition", ICLR.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 8, 3),
        head_dim: int = 64,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        conv_stem: bool = False,
        layer_scale: bool = False,
    ) -> None:
        super().__init__()
        embedding = _ConvStem if conv_stem else _UniFormerEmbedding
        widths = [in_channels, *embed_dims]
        for stage, (dim, depth) in enumerate(zip(embed_dims, depths, strict=True)):
            hidden, heads = int(dim * mlp_ratio), dim // head_dim
            blocks = (
                _ConvBlock(dim, hidden)
                if stage < 2
                else _AttentionBlock(dim, hidden, heads, qkv_bias, layer_scale)
                for _ in range(depth)
            )
            self.add_module(f"patch_embed{stage + 1}", embedding(widths[stage], dim, 2 if stage else 4))
            self.add_module(f"blocks{stage + 1}", nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(embed_dims[-1])
        self.head = nn.Linear(embed_dims[-1], num_classes)
        init_linear_layers(self)

    def forward(self, image: Tensor) -> Pyramid:
        """Image (B, C, H, W) to its maps, the last one normalised, and logits."""
        x, maps = image, []
        for stage in range(1, _STAGES + 1):
            for name in ("patch_embed", "blocks"):
                x = getattr(self, f"{name}{stage}")(x)
            maps.append(x)
        maps[-1] = self.norm(x)
        return Pyramid(maps, self.head(maps[-1].mean(dim=(2, 3))))

    def _own_entries(self, published: StateDict) -> StateDict:
        # The first two stages have convolutions under the names that attention has in the others.
        return {
            name if name.startswith(("blocks1.", "blocks2.")) else rename(name, BLOCK_NAMES): value
            for name, value in published.items()
        }
