"""CRAFT: cross-refinement adaptive feature modulation, for light super-resolution (arXiv 2308.05022)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers.padding import crop_to, pad_to_multiple
from medvit.networks.layers.super_resolution import checked_tables, rgb_mean, windows_of, windows_to_map
from medvit.networks.layers.vit import Mlp, init_linear_layers
from medvit.networks.published import PublishedNetwork, StateDict

# Parameter modules keep the authors' names, so that a published state dict loads as it is. Rectangle
# attention works on channels-last maps (B, H, W, C), the other two blocks on (B, C, H, W).


def _offsets(height: int, width: int) -> Tensor:
    """Offsets between two pixels of a rectangle as (row, column), ((2h - 1)(2w - 1), 2)."""
    rows, columns = (torch.arange(1 - n, n, dtype=torch.float32) for n in (height, width))
    return torch.cartesian_prod(rows, columns)


def _offset_index(height: int, width: int) -> Tensor:
    """Row of `_offsets` for each query and key of a rectangle, (h * w, h * w)."""
    at = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    rows, columns = (at[:, None] - at[None]).unbind(-1)
    return (rows + height - 1) * (2 * width - 1) + columns + width - 1


class _PositionBias(nn.Module):
    """A small network from the offset between two pixels to a bias for each head."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        inner = dim // 4 // 4
        self.pos_proj = nn.Linear(2, inner)
        self.pos1, self.pos2, self.pos3 = (
            nn.Sequential(nn.LayerNorm(inner), nn.ReLU(), nn.Linear(inner, out))
            for out in (inner, inner, num_heads)
        )

    def forward(self, offsets: Tensor) -> Tensor:
        """(offsets, 2) to (offsets, heads)."""
        return self.pos3(self.pos2(self.pos1(self.pos_proj(offsets))))

    @property
    def constant(self) -> bool:
        """Whether all offsets have the same bias, since a layer norm over one channel ignores its input."""
        return self.pos_proj.out_features == 1


class _RectangleAttention(nn.Module):
    """Attention of one half of the channels within rectangles, which may be rolled over the image."""

    offsets: Tensor
    index: Tensor

    def __init__(self, dim: int, size: tuple[int, int], num_heads: int, masked: bool) -> None:
        super().__init__()
        self.size, self.num_heads, self.masked = size, num_heads, masked
        self.pos = _PositionBias(dim, num_heads)
        self.register_buffer("offsets", _offsets(*size), persistent=False)
        self.register_buffer("index", _offset_index(*size), persistent=False)

    def forward(self, qkv: Tensor, shifted: bool) -> Tensor:
        """(B, H, W, 3C) to (B, H, W, C)."""
        h, w = qkv.shape[1:3]
        shift = (self.size[0] // 2, self.size[1] // 2) if shifted else (0, 0)
        if shifted:
            qkv = torch.roll(qkv, (-shift[0], -shift[1]), (1, 2))
        tokens = windows_of(qkv, *self.size)
        query, key, value = tokens.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=self._bias(qkv, shift))
        y = windows_to_map(y.transpose(1, 2).flatten(2), self.size, h, w)
        return torch.roll(y, shift, (1, 2)) if shifted else y

    def _bias(self, x: Tensor, shift: tuple[int, int]) -> Tensor | None:
        bias = None
        if not self.pos.constant:
            bias = self.pos(self.offsets.to(x.dtype))[self.index].permute(2, 0, 1)[None]
        if not (self.masked and any(shift)):
            return bias
        # Zones that only the roll has made neighbours are kept apart.
        zone = torch.zeros(1, *x.shape[1:3], 1, device=x.device)
        zone[:, x.shape[1] - shift[0] :] += 1
        zone[:, :, x.shape[2] - shift[1] :] += 2
        zone = windows_of(zone, *self.size)[..., 0]
        apart = (zone[:, None, :, None] != zone[:, None, None]) * -100.0
        apart = apart.to(x.dtype).repeat(len(x), 1, 1, 1)
        return apart if bias is None else apart + bias


class _LowFrequencyBlock(nn.Module):
    """Attention in wide rectangles for one half of the channels and in tall ones for the other (SRWAB)."""

    def __init__(self, dim: int, num_heads: int, shifted: bool, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.shifted = shifted
        height, width = settings["rectangle"]
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=settings["qkv_bias"])
        self.attns = nn.ModuleList(
            _RectangleAttention(dim // 2, size, num_heads // 2, settings["masked"])
            for size in ((height, width), (width, height))
        )
        self.get_v = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * settings["mlp_ratio"]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, -1))
        halves = [
            attention(qkv[..., half, :].flatten(3), self.shifted) for half, attention in enumerate(self.attns)
        ]
        local = self.get_v(qkv[..., 2, :, :].flatten(3).movedim(-1, 1)).movedim(1, -1)
        x = x + self.proj(torch.cat(halves, dim=-1) + local)
        return x + self.mlp(self.norm2(x))


class _HighFrequencyBlock(nn.Module):
    """A convolution of one half of the channels and the local maximum of the other (HFERB)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim // 2, dim // 2, 3, padding=1)
        self.fc = nn.Conv2d(dim // 2, dim // 2, 1)
        self.last_fc = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        first, second = x.chunk(2, dim=1)
        second = F.max_pool2d(second, 3, stride=1, padding=1)
        return self.last_fc(torch.cat([F.gelu(self.conv(first)), F.gelu(self.fc(second))], dim=1)) + x


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel of (B, C, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.movedim(1, -1)).movedim(-1, 1)


class _CrossChannelAttention(nn.Module):
    """Attention between channels; the queries come from the high frequencies."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.q = nn.Conv2d(dim, dim, 1, bias=False)
        self.q_dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.kv = nn.Conv2d(dim, 2 * dim, 1, bias=False)
        self.kv_dwconv = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim, bias=False)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Two maps (B, C, H, W) to one."""
        query = self.q_dwconv(self.q(high)).unflatten(1, (self.num_heads, -1)).flatten(3)
        key, value = self.kv_dwconv(self.kv(low)).unflatten(1, (2, self.num_heads, -1)).flatten(4).unbind(1)
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        weights = ((query @ key.transpose(-1, -2)) * self.temperature).softmax(dim=-1)
        return self.project_out((weights @ value).reshape(low.shape))


class _GatedFeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(first) * second)


class _FusionBlock(nn.Module):
    """Low frequencies, refined by the high ones (HFB)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _ChannelNorm(dim), _ChannelNorm(dim)
        self.attn = _CrossChannelAttention(dim, num_heads)
        self.ffn = _GatedFeedForward(dim, int(2.66 * dim))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        low = low + self.attn(self.norm1(low), high)
        return low + self.ffn(self.norm2(low))


class _CRAFTBody(nn.Module):
    def __init__(self, dim: int, depth: int, num_heads: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.srwa_blocks = nn.ModuleList(
            _LowFrequencyBlock(dim, num_heads, n % 2 == 1, settings) for n in range(2 * depth)
        )
        self.hfer_blocks = nn.ModuleList(_HighFrequencyBlock(dim) for _ in range(depth))
        self.hf_blocks = nn.ModuleList(_FusionBlock(dim, num_heads) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.srwa_blocks[::2], self.srwa_blocks[1::2], strict=True)
        for pair, extract, fuse in zip(pairs, self.hfer_blocks, self.hf_blocks, strict=True):
            low = x.movedim(1, -1)
            for block in pair:
                low = block(low)
            x = fuse(low.movedim(-1, 1), extract(x))
        return x


class _CRAFTGroup(nn.Module):
    def __init__(self, dim: int, depth: int, num_heads: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.residual_group = _CRAFTBody(dim, depth, num_heads, settings)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x))


class CRAFT(PublishedNetwork):
    """Light super-resolution: rectangle attention for low frequencies, convolutions for high ones.

    Statistics of the fusion blocks are taken over the whole image, so the result for a tile differs.

    Parameters
    ----------
    in_channels
        Channels of the image and of the result. The mean of natural images is subtracted from three channels.
    upscale
        Factor between the sides of the result and those of the image; 1 for restoration.
    embed_dim
        Channels of the body. Below 64 the published network of the position bias has one channel inside and
        gives a constant, which does not affect the softmax.
    depths, num_heads
        Blocks of each group, and heads of their attention; heads are even.
    rectangle
        Height and width in pixels of the rectangles of the first half of the channels; those of the second
        half are turned.
    mlp_ratio, qkv_bias
        Ratio of the feed-forward width, and whether queries, keys and values have a bias.
    img_range
        Factor by which the image is multiplied inside.
    resi_connection
        ``"1conv"`` or ``"identity"``: what ends the body.
    mask_shifted
        Whether rolled rectangles keep opposite borders of the image apart. The published networks mix them.
    residual
        Adds the image, enlarged bilinearly, to the result. Not in the published networks; it keeps grey
        levels and suits medical images.

    References
    ----------
    Li et al. 2023, "Feature modulation transformer: cross-refinement of global representation via
    high-frequency prior for image super-resolution", ICCV.
    """

    mean: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        upscale: int = 2,
        embed_dim: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        rectangle: tuple[int, int] = (4, 16),
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        img_range: float = 1.0,
        resi_connection: Literal["1conv", "identity"] = "1conv",
        mask_shifted: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if any(heads % 2 or embed_dim % heads for heads in num_heads):
            raise ValueError(f"num_heads must be even and divide {embed_dim} channels, not {list(num_heads)}")
        if embed_dim < 32:
            raise ValueError(
                f"embed_dim must be at least 32 (the position bias takes a 32nd), not {embed_dim}"
            )
        self.upscale, self.img_range, self.residual = upscale, img_range, residual
        self.rectangle = (rectangle[0], rectangle[1])
        settings = {
            "rectangle": self.rectangle, "mlp_ratio": mlp_ratio, "qkv_bias": qkv_bias, "masked": mask_shifted,
        }  # fmt: skip
        self.register_buffer("mean", rgb_mean(in_channels), persistent=False)
        self.conv_first = nn.Conv2d(in_channels, embed_dim, 3, padding=1)
        self.layers = nn.ModuleList(
            _CRAFTGroup(embed_dim, depth, heads, settings)
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = _ChannelNorm(embed_dim)
        identity = resi_connection == "identity"
        self.conv_after_body = nn.Identity() if identity else nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.upsample = nn.Sequential(
            nn.Conv2d(embed_dim, upscale**2 * in_channels, 3, padding=1), nn.PixelShuffle(upscale)
        )
        init_linear_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) of any size to (B, C, H * upscale, W * upscale)."""
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, math.lcm(*self.rectangle))
        mean = self.mean.to(x.dtype)
        first = y = self.conv_first((padded - mean) * self.img_range)
        for layer in self.layers:
            y = layer(y)
        y = self.conv_after_body(self.norm(y)) + first
        y = crop_to(self.upsample(y) / self.img_range + mean, height * self.upscale, width * self.upscale)
        return y + F.interpolate(x, size=y.shape[-2:], mode="bilinear") if self.residual else y

    def _unused_entries(self, published: StateDict) -> tuple[str, ...]:
        both = (self.rectangle, self.rectangle[::-1])
        tables = {f"biases_{way}": [_offsets(*size) for size in both] for way in "hv"}
        tables |= {f"relative_position_index_{way}": [_offset_index(*size) for size in both] for way in "hv"}
        return checked_tables(published, tables, type(self).__name__)
