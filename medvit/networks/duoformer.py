"""DuoFormer: scales of a ResNet attend within regions, then regions to each other (Tang et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers.vit import BLOCK_NAMES, SelfAttention, TransformerBlock
from medvit.networks.published import PublishedNetwork, StateDict, renamed

# Parameter modules keep the authors' names, except those of attention and perceptron.

_GRID = 7
_STAGES = 4
_NORM_EPS = 1e-6
_TOKEN_STD = 0.036

_RESNETS: dict[str, tuple[tuple[int, ...], int]] = {"r18": ((2, 2, 2, 2), 1), "r50": ((3, 4, 6, 3), 4)}
ScaleToken = Literal["random", "channel"]


class _ResBlock(nn.Module):
    """torchvision's basic block (expansion 1) or bottleneck (expansion 4)."""

    def __init__(self, in_channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        out = width * expansion
        plan = [(in_channels, width, 3, stride), (width, out, 3, 1)]
        if expansion > 1:
            plan = [(in_channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        self.count = len(plan)
        for number, (before, after, size, step) in enumerate(plan, 1):
            conv = nn.Conv2d(before, after, size, step, size // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(after))
        self.downsample: nn.Module | None = None
        if stride > 1 or in_channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = F.relu(y) if number < self.count else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _resnet(in_channels: int, depths: Sequence[int], expansion: int) -> nn.Sequential:
    stem = [nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    stages, channels = [], 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        blocks = []
        for number in range(depth):
            blocks.append(_ResBlock(channels, width, 2 if stage and number == 0 else 1, expansion))
            channels = width * expansion
        stages.append(nn.Sequential(*blocks))
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *stages)


class _Strided(nn.Module):
    """Strided convolutions and max pooling that bring a finer stage to the coarsest one's grid."""

    def __init__(self, channels: int, number: int) -> None:
        super().__init__()
        self.number = number
        for n in range(1, number + 1):
            self.add_module(f"conv{n}", nn.Conv2d(channels, channels, 3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        for n in range(1, self.number + 1):
            x = getattr(self, f"conv{n}")(x)
        return F.max_pool2d(x, 2)


class _ConvNorm(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv, self.norm = (
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class _Joined(nn.Module):
    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.nConvs = nn.Sequential(*(_ConvNorm(in_channels if n == 0 else dim, dim) for n in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.nConvs(x)


class _PatchBlock(nn.Module):
    """Attention only: as published, without norm, residual connection or perceptron."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


class MultiscaleFormer(nn.Module):
    """Scale attention within each region, then attention of the regions' first tokens to each other.

    Parameters
    ----------
    dim, depth, num_heads, mlp_ratio
        Width, blocks, heads and feed-forward ratio of both transformers.
    num_classes
        Classes of the head.
    tokens
        Tokens of a region, its scale token included.
    regions
        Regions of the image.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        num_classes: int,
        tokens: int,
        regions: int = _GRID**2,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.pos_embed_for_scale = nn.Parameter(torch.zeros(1, 1, tokens, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + regions, dim))
        hidden = int(dim * mlp_ratio)
        self.scaleBlocks = nn.Sequential(
            *(TransformerBlock(dim, num_heads, hidden, norm_eps=_NORM_EPS) for _ in range(depth))
        )
        self.blocks = nn.Sequential(*(_PatchBlock(dim, num_heads) for _ in range(depth)))
        # An entry of the published state dict whose result is not used.
        self.fc_norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.head = nn.Linear(dim, num_classes)
        for parameter in (self.pos_embed_for_scale, self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=_TOKEN_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, regions, tokens, C) to logits (B, classes)."""
        b, regions = x.shape[:2]
        x = self.scaleBlocks((x + self.pos_embed_for_scale).flatten(0, 1))[:, 0].unflatten(0, (b, regions))
        x = torch.cat([self.cls_token.expand(b, -1, -1), x], dim=1) + self._positions(regions)
        return self.head(self.blocks(x)[:, 0])

    def _positions(self, regions: int) -> Tensor:
        """The table of the regions, resized for a square grid of other size."""
        table = self.pos_embed
        if table.shape[1] == 1 + regions:
            return table
        before, after = (round(n**0.5) for n in (table.shape[1] - 1, regions))
        grid = table[:, 1:].reshape(1, before, before, -1).movedim(-1, 1)
        grid = F.interpolate(grid, size=(after, after), mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class DuoFormer(PublishedNetwork):
    """Classifies a tile: the stages of a ResNet, cut into regions, attend across scales, then across regions.

    Parameters
    ----------
    in_channels, num_classes
        Channels of the tile, and classes.
    backbone
        ``"r18"`` or ``"r50"``.
    num_scales
        Number of last stages that are used, 1 to 4.
    scale_token
        The token that gathers a region: ``"random"``, one learnt vector, or ``"channel"``, made from all
        stages.
    embed_dim, depth, num_heads, mlp_ratio
        Width, blocks, heads and feed-forward ratio of both transformers.

    Notes
    -----
    Tiles are square with sides in multiples of 32; the published networks take 224 pixels. The patch blocks
    have neither norm nor residual, as published.

    References
    ----------
    Tang et al. 2025, "DuoFormer: leveraging hierarchical representations by local and global attention in
    vision transformers", MIDL, PMLR 301.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        backbone: Literal["r18", "r50"] = "r50",
        num_scales: int = 3,
        scale_token: ScaleToken = "random",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if not 1 <= num_scales <= _STAGES:
            raise ValueError(f"num_scales must be 1 to {_STAGES}, not {num_scales}")
        depths, expansion = _RESNETS[backbone]
        channels = [64 * 2**stage * expansion for stage in range(_STAGES)]
        self.num_scales, self.scale_token = num_scales, scale_token
        self.resnet_projector = _resnet(in_channels, depths, expansion)
        if scale_token == "random":
            self.channel_token = nn.Parameter(torch.empty(1, 1, 1, embed_dim).normal_(std=_TOKEN_STD))
        else:
            self.chann_proj1, self.chann_proj2 = _Strided(channels[0], 2), _Strided(channels[1], 1)
            self.chann_proj_all = _Joined(sum(channels), embed_dim)
        self.projection = nn.Module()
        for stage in reversed(range(_STAGES - num_scales, _STAGES)):
            self.projection.add_module(f"proj_heads{stage}", nn.Conv2d(channels[stage], embed_dim, 1))
        tokens = 1 + sum(4**scale for scale in range(num_scales))
        self.vision_transformer = MultiscaleFormer(
            embed_dim, depth, num_heads, num_classes, tokens, mlp_ratio=mlp_ratio
        )

    def forward(self, image: Tensor) -> Tensor:
        """Tile (B, C, S, S) to logits (B, classes)."""
        maps, x = [], image
        for number, layer in enumerate(self.resnet_projector):
            x = layer(x)
            if number >= _STAGES:
                maps.append(x)
        return self.vision_transformer(torch.cat([self._scale_tokens(maps), *self._scales(maps)], dim=2))

    def _scale_tokens(self, maps: list[Tensor]) -> Tensor:
        """(B, regions, 1, C)."""
        batch, regions = len(maps[-1]), maps[-1][0, 0].numel()
        if self.scale_token == "random":
            return self.channel_token.expand(batch, regions, -1, -1)
        first, second, third, fourth = maps
        parts = [self.chann_proj1(first), self.chann_proj2(second), F.max_pool2d(third, 2), fourth]
        return self.chann_proj_all(torch.cat(parts, dim=1)).flatten(2).transpose(1, 2)[:, :, None]

    def _scales(self, maps: list[Tensor]) -> list[Tensor]:
        """Tokens of each stage in its regions, (B, regions, 4 ** scale, C), coarsest first."""
        rows, columns = maps[-1].shape[-2:]
        found = []
        for scale in range(self.num_scales):
            stage = _STAGES - 1 - scale
            x = getattr(self.projection, f"proj_heads{stage}")(maps[stage])
            n = 2**scale
            x = x.reshape(*x.shape[:2], rows, n, columns, n)
            # As published, the second scale is gathered by columns and the finer ones by rows.
            order = (0, 2, 4, 5, 3, 1) if scale == 1 else (0, 2, 4, 3, 5, 1)
            found.append(x.permute(order).reshape(len(x), rows * columns, n * n, -1))
        return found

    def _own_entries(self, published: StateDict) -> StateDict:
        return renamed(published, BLOCK_NAMES)
