"""DRSformer: a sparse transformer for image restoration (Chen et al. 2023, arXiv 2303.11950)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers.padding import crop_to, pad_to_multiple
from medvit.networks.published import PublishedNetwork

# Parameter modules keep the authors' names, so that a published state dict loads as it is.

_STEPS = 4
_EXPERTS = 8
# Share of the scores of a row that each of the four attentions keeps.
_KEPT = ((1, 2), (2, 3), (3, 4), (4, 5))


class _Norm(nn.Module):
    """Layer norm over the channels of each pixel; without bias the mean is not subtracted."""

    def __init__(self, dim: int, biased: bool) -> None:
        super().__init__()
        self.body = nn.LayerNorm(dim, bias=biased)
        self.biased = biased

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        if self.biased:
            return self.body(x.movedim(1, -1)).movedim(-1, 1)
        variance = x.var(dim=1, keepdim=True, unbiased=False)
        return x * torch.rsqrt(variance + self.body.eps) * self.body.weight[:, None, None]


class _SparseAttention(nn.Module):
    """Attention between channels that keeps the largest scores of each row, for four shares of them."""

    def __init__(self, dim: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)
        self.attn1, self.attn2, self.attn3, self.attn4 = (nn.Parameter(torch.tensor([0.2])) for _ in _KEPT)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        qkv = self.qkv_dwconv(self.qkv(x)).unflatten(1, (3, self.num_heads, -1)).flatten(4)
        query, key, value = qkv.unbind(1)
        scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-1, -2) * self.temperature
        channels = scores.shape[-1]
        ordered = scores.sort(dim=-1, descending=True)
        mixed = torch.zeros_like(scores)
        shares = (self.attn1, self.attn2, self.attn3, self.attn4)
        for weight, (part, whole) in zip(shares, _KEPT, strict=True):
            kept = int(channels * part / whole)
            probabilities = ordered.values[..., :kept].softmax(dim=-1)
            mixed = mixed.scatter_add(-1, ordered.indices[..., :kept], weight * probabilities)
        return self.project_out((mixed @ value).reshape(x.shape))


class _MixedScaleFeedForward(nn.Module):
    """Depthwise paths of 3x3 and 5x5 that exchange halves of their channels."""

    dwconv3x3: nn.Conv2d
    dwconv5x5: nn.Conv2d
    dwconv3x3_1: nn.Conv2d
    dwconv5x5_1: nn.Conv2d

    def __init__(self, dim: int, factor: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * factor)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        for n in (3, 5):
            first = nn.Conv2d(2 * hidden, 2 * hidden, n, padding=n // 2, groups=2 * hidden, bias=bias)
            second = nn.Conv2d(2 * hidden, hidden, n, padding=n // 2, groups=hidden, bias=bias)
            self.add_module(f"dwconv{n}x{n}", first)
            self.add_module(f"dwconv{n}x{n}_1", second)
        self.project_out = nn.Conv2d(2 * hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        y = self.project_in(x)
        a1, a2 = F.relu(self.dwconv3x3(y)).chunk(2, dim=1)
        b1, b2 = F.relu(self.dwconv5x5(y)).chunk(2, dim=1)
        fine = F.relu(self.dwconv3x3_1(torch.cat([a1, b1], dim=1)))
        coarse = F.relu(self.dwconv5x5_1(torch.cat([a2, b2], dim=1)))
        return self.project_out(torch.cat([fine, coarse], dim=1))


class _SparseBlock(nn.Module):
    """Sparse channel attention and a mixed-scale feed-forward part, each added to its input (STB)."""

    def __init__(self, dim: int, num_heads: int, factor: float, bias: bool, biased_norm: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = _Norm(dim, biased_norm), _Norm(dim, biased_norm)
        self.attn = _SparseAttention(dim, num_heads, bias)
        self.ffn = _MixedScaleFeedForward(dim, factor, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class _Expert(nn.Module):
    """One of the convolutions between which the mixture chooses."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def _depthwise(dim: int, size: int, dilation: int = 1) -> nn.Conv2d:
    padding = size // 2 * dilation
    return nn.Conv2d(dim, dim, size, padding=padding, dilation=dilation, groups=dim, bias=False)


def _pointwise(dim: int) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, 1, bias=False)


def _separable(dim: int, size: int) -> _Expert:
    once = (_depthwise(dim, size), _pointwise(dim))
    twice = (_depthwise(dim, size), _pointwise(dim))
    return _Expert(*once, nn.ReLU(), *twice)


class _Step(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self._ops = nn.ModuleList(
            [
                *(_separable(dim, size) for size in (1, 3, 5, 7)),
                *(_Expert(_depthwise(dim, size, dilation=2), _pointwise(dim)) for size in (3, 5, 7)),
                nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
            ]
        )
        self._out = nn.Sequential(nn.Conv2d(_EXPERTS * dim, dim, 1, bias=False))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, C, H, W) and a weight of each expert (B, 8) to (B, C, H, W)."""
        experts = torch.stack([expert(x) for expert in self._ops], dim=1) * weights[..., None, None, None]
        return F.relu(self._out(experts.flatten(1, 2)))


class _ChosenExperts(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.preprocess = _Expert(_pointwise(dim))
        self._ops = nn.ModuleList(_Step(dim) for _ in range(_STEPS))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        x = F.relu(self.preprocess(x))
        for number, step in enumerate(self._ops):
            x = F.relu(x + step(x, weights[:, number]))
        return x


class _Chooser(nn.Module):
    """Weights of the experts of each step, from the mean of the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        experts = _STEPS * _EXPERTS
        self.ca_fc = nn.Sequential(nn.Linear(dim, 2 * experts), nn.ReLU(), nn.Linear(2 * experts, experts))

    def forward(self, x: Tensor) -> Tensor:
        return self.ca_fc(x.mean(dim=(2, 3))).unflatten(1, (_STEPS, _EXPERTS)).softmax(dim=-1)


class _MixtureOfExperts(nn.Module):
    """Eight convolutions in four steps, weighted by the content of the image (MEFC)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Chooser(dim), _ChosenExperts(dim)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        chooser, experts = self.layers
        return experts(x, chooser(x))


class _Resample(nn.Module):
    """Half the size at twice the channels, or twice the size at half the channels."""

    def __init__(self, dim: int, up: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(dim, 2 * dim if up else dim // 2, 3, padding=1, bias=False)
        self.body = nn.Sequential(conv, nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _Embedding(nn.Module):
    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class DRSformer(PublishedNetwork):
    """Restores an image of the same size: a U-shape of sparse channel attention, between mixtures of experts.

    Norms of the attention and the weights of the experts are taken over the whole image, so the
    result for a tile differs from that for the whole image.

    Parameters
    ----------
    in_channels
        Channels of the image and of the restored one.
    dim
        Channels at full resolution; every level doubles them. A head has at least two of them.
    depths, num_heads
        Blocks and heads of the four levels, from full resolution down.
    ffn_factor
        Width of the feed-forward parts over that of the level.
    bias
        Whether the convolutions of the blocks, the reductions and the last one have a bias.
    norm
        ``"with_bias"``, or ``"bias_free"``, which does not subtract the mean.
    experts
        Whether there are mixtures of experts; the authors' networks for Rain200L and SPA have none.

    References
    ----------
    Chen et al. 2023, "Learning a sparse transformer network for effective image deraining", CVPR.
    """

    def __init__(
        self,
        in_channels: int = 1,
        dim: int = 48,
        depths: Sequence[int] = (4, 6, 6, 8),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        ffn_factor: float = 2.66,
        bias: bool = False,
        norm: Literal["with_bias", "bias_free"] = "with_bias",
        experts: bool = True,
    ) -> None:
        super().__init__()
        widths = [dim * 2**level for level in range(4)]
        if any(w % heads or w // heads < 2 for w, heads in zip(widths, num_heads, strict=True)):
            raise ValueError(f"num_heads {list(num_heads)} must cut {widths} into 2 channels or more")

        def level(width: int, number: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    _SparseBlock(width, num_heads[number], ffn_factor, bias, norm == "with_bias")
                    for _ in range(depths[number])
                )
            )

        self.patch_embed = _Embedding(in_channels, dim)
        self.encoder_level0 = _MixtureOfExperts(dim) if experts else nn.Identity()
        self.encoder_level1, self.encoder_level2 = level(widths[0], 0), level(widths[1], 1)
        self.encoder_level3, self.latent = level(widths[2], 2), level(widths[3], 3)
        self.down1_2, self.down2_3, self.down3_4 = (_Resample(width, up=False) for width in widths[:3])
        self.up4_3, self.up3_2, self.up2_1 = (_Resample(width, up=True) for width in widths[:0:-1])
        self.reduce_chan_level3 = nn.Conv2d(2 * widths[2], widths[2], 1, bias=bias)
        self.reduce_chan_level2 = nn.Conv2d(2 * widths[1], widths[1], 1, bias=bias)
        self.decoder_level3, self.decoder_level2 = level(widths[2], 2), level(widths[1], 1)
        self.decoder_level1 = level(widths[1], 0)
        self.refinement = _MixtureOfExperts(widths[1]) if experts else nn.Identity()
        self.output = nn.Conv2d(widths[1], in_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) to the same shape; any size, mirrored to a multiple of 8 inside."""
        padded = pad_to_multiple(x, 8)
        first = self.encoder_level1(self.encoder_level0(self.patch_embed(padded)))
        second = self.encoder_level2(self.down1_2(first))
        third = self.encoder_level3(self.down2_3(second))
        y = self.up4_3(self.latent(self.down3_4(third)))
        y = self.decoder_level3(self.reduce_chan_level3(torch.cat([y, third], dim=1)))
        y = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(y), second], dim=1)))
        y = self.decoder_level1(torch.cat([self.up2_1(y), first], dim=1))
        return crop_to(self.output(self.refinement(y)) + padded, *x.shape[-2:])
