"""Swin UNETR's frame around cross-shaped windows in three dimensions: ours, after Li et al. (2305.00385)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from medvit.networks.layers.stripes import CSwinBlock, Stripe
from medvit.networks.layers.vit import init_linear_layers

Strides = tuple[int, int, int]


def volume_stripes(width: int, *, thick_slices: bool) -> tuple[Stripe, ...]:
    """Stripes of a 3D block, one for each group of channels.

    Parameters
    ----------
    width
        Width of the stripes in tokens.
    thick_slices
        Whether the last axis is short: then there are two groups, each with the whole depth and one axis of
        the slice. Otherwise there are three, each with one whole axis.
    """
    if thick_slices:
        return (None, width, None), (width, None, None)
    return (None, width, width), (width, None, width), (width, width, None)


class _Halve(nn.Module):
    """A convolution by which some axes are halved, and a norm."""

    def __init__(self, dim: int, out_dim: int, stride: Strides) -> None:
        super().__init__()
        self.conv = nn.Conv3d(dim, out_dim, 3, stride=stride, padding=1)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to channels last, (B, X', Y', Z', out_dim)."""
        return self.norm(self.conv(x).movedim(1, -1))


class CSwinUNETR(nn.Module):
    """Segments a volume: CSwin stages in 3D down, the convolutions of Swin UNETR up.

    The prostate network of Li et al. has no public code, and its abstract leaves open the layout of stripes
    in three dimensions, widths, depths, heads and the decoder. This is a derivation that shares the idea, not
    their network.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image, and classes with the background.
    feature_size
        Channels of the first stage; each further one has twice as many.
    depths, num_heads, stripe_widths
        Blocks, heads and width of the stripes, in tokens, of the four stages. Heads and channels are
        multiples of the groups of stripes.
    strides
        Factors by which the first convolution and each stage's end make the axes smaller.
    thick_slices
        Layout of the stripes, see `volume_stripes`.
    mlp_ratio, qkv_bias, drop_path_rate
        Usual settings of a transformer; the rate of stochastic depth rises linearly over the blocks.

    References
    ----------
    Li et al. 2025, "Cross-shaped windows transformer with self-supervised pretraining for clinically
    significant prostate cancer detection in bi-parametric MRI", Medical Physics 52. Dong et al. 2022, "CSWin
    transformer", CVPR. Hatamizadeh et al. 2022, "Swin UNETR", BrainLes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        feature_size: int = 24,
        depths: Sequence[int] = (1, 2, 2, 1),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        stripe_widths: Sequence[int] = (2, 2, 4, 4),
        strides: Sequence[Sequence[int]] = ((2, 2, 2),) * 5,
        thick_slices: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.strides: list[Strides] = [(s[0], s[1], s[2]) for s in strides]
        if len(self.strides) != 5:
            raise ValueError(f"there are five strides, one before each stage and at the end, not {strides}")
        widths = [feature_size * 2**stage for stage in range(5)]
        self.embedding = _Halve(in_channels, widths[0], self.strides[0])
        rates = torch.linspace(0, drop_path_rate, sum(depths)).split(list(depths))
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for stage, (heads, width, group) in enumerate(zip(num_heads, stripe_widths, rates, strict=True)):
            dim, stripes = widths[stage], volume_stripes(width, thick_slices=thick_slices)
            self.stages.append(
                nn.Sequential(
                    *(CSwinBlock(dim, heads, stripes, mlp_ratio, qkv_bias, r) for r in group.tolist())
                )
            )
            self.merges.append(_Halve(dim, widths[stage + 1], self.strides[stage + 1]))

        def keep(channels: int, out: int) -> UnetrBasicBlock:
            return UnetrBasicBlock(3, channels, out, 3, 1, "instance", res_block=True)

        self.skips = nn.ModuleList(
            keep(channels, out)
            for channels, out in zip((in_channels, *widths), (widths[0], *widths), strict=True)
        )
        self.ups = nn.ModuleList(
            UnetrUpBlock(3, channels, out, 3, stride, "instance", res_block=True)
            for channels, out, stride in zip(widths, (widths[0], *widths), self.strides, strict=False)
        )
        self.out = UnetOutBlock(3, widths[0], out_channels)
        init_linear_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, X, Y, Z) of any size to logits (B, classes, X, Y, Z)."""
        size = x.shape[2:]
        multiples = [int(torch.tensor([s[axis] for s in self.strides]).prod()) for axis in range(3)]
        lack = [-n % multiple for n, multiple in zip(size, multiples, strict=True)]
        if any(lack):
            x = F.pad(x, [0, lack[2], 0, lack[1], 0, lack[0]])
        maps = [x]
        y = self.embedding(x)
        for stage, merge in zip(self.stages, self.merges, strict=True):
            y = stage(y).movedim(-1, 1)
            maps.append(y)
            y = merge(y)
        maps.append(y.movedim(-1, 1))
        skips = [keep(m) for keep, m in zip(self.skips, maps, strict=True)]
        y = skips.pop()
        for up in reversed(self.ups):
            y = up(y, skips.pop())
        return self.out(y)[..., : size[0], : size[1], : size[2]]
