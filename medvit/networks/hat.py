"""HAT: the hybrid attention transformer, for super-resolution and restoration (arXiv 2205.04437)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from monai.networks.layers import DropPath
from torch import Tensor, nn

from medvit.networks.layers.padding import crop_to, pad_to_multiple
from medvit.networks.layers.super_resolution import (
    checked_tables,
    rgb_mean,
    upsampler,
    window_offsets,
    windows_of,
    windows_to_map,
)
from medvit.networks.layers.vit import Mlp, init_linear_layers
from medvit.networks.published import PublishedNetwork, StateDict

# Feature maps are channels-last, (B, H, W, C), so that a linear layer acts on each pixel.

Settings = Mapping[str, Any]

# Windows whose attention scores are held in memory at once by the overlapping cross-attention.
_WINDOWS_AT_ONCE = 64
# Parameter modules keep the authors' names, so that a published state dict loads as it is.
_INDICES = ("relative_position_index_SA", "relative_position_index_OCA")


class _Gate(nn.Module):
    """Channels weighted by a function of their means over the image."""

    def __init__(self, dim: int, squeezed: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(dim, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class _ChannelAttentionBlock(nn.Module):
    def __init__(self, dim: int, compress_ratio: int, squeeze_factor: int) -> None:
        super().__init__()
        inner = dim // compress_ratio
        self.cab = nn.Sequential(
            nn.Conv2d(dim, inner, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(inner, dim, 3, padding=1),
            _Gate(dim, dim // squeeze_factor),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cab(x.movedim(-1, 1)).movedim(1, -1)


class _WindowAttention(nn.Module):
    """Attention within windows, with a learned bias for each offset between two pixels."""

    def __init__(self, dim: int, window: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.window, self.num_heads = window, num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, W, C) to the same shape; `mask` (windows, n, n) is added to the scores."""
        b, h, w, c = x.shape
        n, heads = self.window**2, self.num_heads
        index = window_offsets(self.window, self.window, x.device)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)[None]
        qkv = windows_of(self.qkv(x), self.window).reshape(-1, n, 3, heads, c // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if mask is not None:
            bias = (bias + mask[:, None].to(bias.dtype)).repeat(b, 1, 1, 1)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return self.proj(windows_to_map(y.transpose(1, 2).reshape(-1, n, c), self.window, h, w))


class _HybridBlock(nn.Module):
    """Window attention and a gated convolution side by side, then a feed-forward part (HAB)."""

    def __init__(
        self, dim: int, num_heads: int, shift: int, drop_path: float, settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.shift, self.conv_scale = shift, settings["conv_scale"]
        self.drop_path = DropPath(drop_path)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = _WindowAttention(dim, settings["block_window"], num_heads, settings["qkv_bias"])
        self.conv_block = _ChannelAttentionBlock(dim, settings["compress_ratio"], settings["squeeze_factor"])
        self.mlp = Mlp(dim, int(dim * settings["mlp_ratio"]))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.norm1(x)
        convolved = self.conv_block(y)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self.attn(y, mask if self.shift else None)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + self.drop_path(y) + self.conv_scale * convolved
        return x + self.drop_path(self.mlp(self.norm2(x)))


class _OverlappingCrossAttention(nn.Module):
    """Each window attends to a larger window around it (OCAB)."""

    def __init__(self, dim: int, num_heads: int, settings: Settings) -> None:
        super().__init__()
        self.window, self.num_heads = settings["window_size"], num_heads
        self.wide = self.window + int(self.window * settings["overlap_ratio"])
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=settings["qkv_bias"])
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((self.window + self.wide - 1) ** 2, num_heads)
        )
        self.proj = nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * settings["mlp_ratio"]))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.proj(self._attended(self.norm1(x)))
        return x + self.mlp(self.norm2(x))

    def _attended(self, x: Tensor) -> Tensor:
        h, w, c = x.shape[1:]
        n, heads, margin = self.window, self.num_heads, (self.wide - self.window) // 2
        query, keys = self.qkv(x).split((c, 2 * c), dim=-1)
        query = windows_of(query, n)
        # Positions outside the image have keys and values of zero, and take part in the softmax.
        keys = F.pad(keys, (0, 0, margin, margin, margin, margin))
        keys = keys.unfold(1, self.wide, n).unfold(2, self.wide, n)  # (B, rows, columns, 2C, wide, wide)
        keys = keys.flatten(0, 2)
        index = window_offsets(n, self.wide, x.device)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)[None].to(x.dtype)
        parts = []
        for some, wider in zip(query.split(_WINDOWS_AT_ONCE), keys.split(_WINDOWS_AT_ONCE), strict=True):
            q = some.reshape(-1, n * n, heads, c // heads).transpose(1, 2)
            k, v = wider.reshape(len(wider), 2, heads, c // heads, -1).transpose(-1, -2).unbind(1)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            parts.append(y.transpose(1, 2).reshape(-1, n * n, c))
        return windows_to_map(torch.cat(parts), n, h, w)


class _HATBody(nn.Module):
    def __init__(self, dim: int, num_heads: int, rates: Sequence[float], settings: Mapping[str, Any]) -> None:
        super().__init__()
        shift = settings["shift"]
        self.blocks = nn.ModuleList(
            _HybridBlock(dim, num_heads, shift * (i % 2), rate, settings) for i, rate in enumerate(rates)
        )
        self.overlap_attn = _OverlappingCrossAttention(dim, num_heads, settings)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return self.overlap_attn(x)


class _HATGroup(nn.Module):
    """Hybrid blocks, a cross-attention and a convolution, added to their input (RHAG)."""

    def __init__(self, dim: int, num_heads: int, rates: Sequence[float], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.residual_group = _HATBody(dim, num_heads, rates, settings)
        identity = settings["resi_connection"] == "identity"
        self.conv = nn.Identity() if identity else nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x + self.conv(self.residual_group(x, mask).movedim(-1, 1)).movedim(1, -1)


class _PatchNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)


class HAT(PublishedNetwork):
    """Residual super-resolution by window attention, gated convolutions and overlapping cross-attention.

    Parameters
    ----------
    in_channels
        Channels of the image and of the result. The mean of natural images is subtracted from three channels,
        unless `residual`.
    upscale
        Factor between the sides of the result and those of the image: 1 (restoration), 3 or a power of two.
    embed_dim
        Channels of the body; a multiple of every number of heads.
    depths, num_heads
        Hybrid blocks of each group, and heads of their attention.
    window_size
        Side of the attention windows in pixels.
    compress_ratio, squeeze_factor
        Factors by which the convolutions and the channel gate are narrower inside.
    conv_scale
        Weight of the convolution branch.
    overlap_ratio
        Relative enlargement of the cross-attention's windows; `window_size` times it, rounded down, is even.
    mlp_ratio, qkv_bias, patch_norm, drop_path_rate
        Usual settings of a Swin transformer; stochastic depth acts during training only.
    img_size
        Side of the training images. A side of at most `window_size` turns the shifts off and makes the
        windows of the hybrid blocks that small, as in the authors' code.
    img_range
        Factor by which the image is multiplied inside.
    resi_connection
        ``"1conv"`` or ``"identity"``: what ends a group and the body.
    absolute_position
        Whether a table of `img_size` squared positions is added; the network then accepts only that size.
    residual
        Adds the image, enlarged bilinearly, to the result. Not in the published networks; it keeps grey
        levels and suits medical images.

    References
    ----------
    Chen et al. 2023, "Activating more pixels in image super-resolution transformer", CVPR.
    """

    mean: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        upscale: int = 2,
        embed_dim: int = 144,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        window_size: int = 16,
        compress_ratio: int = 24,
        squeeze_factor: int = 24,
        conv_scale: float = 0.01,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        patch_norm: bool = True,
        drop_path_rate: float = 0.1,
        img_size: int = 64,
        img_range: float = 1.0,
        resi_connection: Literal["1conv", "identity"] = "1conv",
        absolute_position: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if int(window_size * overlap_ratio) % 2:
            raise ValueError(f"window_size * overlap_ratio must be even, not {window_size * overlap_ratio}")
        if min(embed_dim // squeeze_factor, embed_dim // compress_ratio) < 1:
            raise ValueError("embed_dim must be at least squeeze_factor and compress_ratio")
        self.upscale, self.window_size, self.img_range = upscale, window_size, img_range
        self.residual = residual
        self.wide_window = window_size + int(window_size * overlap_ratio)
        small = img_size <= window_size
        self.block_window = img_size if small else window_size
        self.shift = 0 if small else window_size // 2
        settings = {
            "window_size": window_size, "block_window": self.block_window, "shift": self.shift,
            "compress_ratio": compress_ratio, "squeeze_factor": squeeze_factor, "conv_scale": conv_scale,
            "overlap_ratio": overlap_ratio, "mlp_ratio": mlp_ratio, "qkv_bias": qkv_bias,
            "resi_connection": resi_connection,
        }  # fmt: skip
        mean = torch.zeros(1, in_channels, 1, 1) if residual else rgb_mean(in_channels)
        self.register_buffer("mean", mean, persistent=False)
        self.conv_first = nn.Conv2d(in_channels, embed_dim, 3, padding=1)
        self.patch_embed = _PatchNorm(embed_dim) if patch_norm else None
        if absolute_position:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, img_size**2, embed_dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        rates = torch.linspace(0, drop_path_rate, sum(depths)).split(list(depths))
        self.layers = nn.ModuleList(
            _HATGroup(embed_dim, heads, group.tolist(), settings)
            for heads, group in zip(num_heads, rates, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        identity = resi_connection == "identity"
        self.conv_after_body = nn.Identity() if identity else nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(embed_dim, 64, 3, padding=1), nn.LeakyReLU())
        self.upsample = upsampler(64, upscale)
        self.conv_last = nn.Conv2d(64, in_channels, 3, padding=1)
        init_linear_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) of any size to (B, C, H * upscale, W * upscale); mirrored to whole windows."""
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.window_size)
        mean = self.mean.to(x.dtype)
        first = self.conv_first((padded - mean) * self.img_range)
        y = self.conv_after_body(self._body(first)) + first
        y = self.conv_last(self.upsample(self.conv_before_upsample(y))) / self.img_range + mean
        y = crop_to(y, height * self.upscale, width * self.upscale)
        return y + F.interpolate(x, size=y.shape[-2:], mode="bilinear") if self.residual else y

    def _body(self, features: Tensor) -> Tensor:
        y = features.movedim(1, -1)
        if self.patch_embed is not None:
            y = self.patch_embed.norm(y)
        if hasattr(self, "absolute_pos_embed"):
            y = y + self.absolute_pos_embed.reshape(1, *y.shape[1:])
        mask = self._shift_mask(y.shape[1], y.shape[2], y.device) if self.shift else None
        for layer in self.layers:
            y = layer(y, mask)
        return self.norm(y).movedim(-1, 1)

    def _shift_mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """Mask that separates pixels which only the shift has made neighbours: (windows, n, n), 0 or -100."""

        def zones(size: int) -> Tensor:
            position = torch.arange(size, device=device)
            return (position >= size - self.block_window).long() + (position >= size - self.shift).long()

        zone = 3 * zones(height)[:, None] + zones(width)
        zone = windows_of(zone[None, ..., None], self.block_window)[..., 0]
        return (zone[:, :, None] != zone[:, None]) * -100.0

    def _unused_entries(self, published: StateDict) -> tuple[str, ...]:
        window, wide = self.block_window, self.wide_window
        own = {
            _INDICES[0]: [window_offsets(window, window, torch.device("cpu"))],
            _INDICES[1]: [window_offsets(self.window_size, wide, torch.device("cpu"), wrapped=False)],
        }
        return checked_tables(published, own, type(self).__name__)
