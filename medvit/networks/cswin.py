"""CSWin: a backbone of cross-shaped windows for images of any size (Dong et al. 2022, arXiv 2107.00652)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medvit.networks.layers.stripes import CSwinBlock, crossed_stripes
from medvit.networks.layers.vit import init_linear_layers
from medvit.networks.published import PublishedNetwork

# Parameter modules keep the authors' names, so that a published state dict loads as it is.


class _ToChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1)


def embedding(in_channels: int, dim: int) -> nn.Sequential:
    """Overlapping patches of 7x7 pixels every four: (B, C, H, W) to (B, (H - 3) // 4 + 1, ..., dim)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, dim, 7, stride=4, padding=2), _ToChannelsLast(), nn.LayerNorm(dim)
    )


class ConvMerging(nn.Module):
    """Half the size: a convolution of stride 2 and a norm."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), out_dim)."""
        return self.norm(self.conv(x.movedim(-1, 1)).movedim(1, -1))


class CSwin(PublishedNetwork):
    """The backbone for dense tasks: four maps, at a quarter to a 32nd of the image.

    Parameters
    ----------
    in_channels
        Channels of the image.
    embed_dim
        Channels of the first stage; each further one has as many times more as it has more heads.
    depths, num_heads, stripe_widths
        Blocks, heads and width of the stripes, in tokens, of the four stages. The last stage is one window.
    mlp_ratio, qkv_bias, drop_path_rate
        Usual settings of a transformer; the rate of stochastic depth rises linearly over the blocks.

    References
    ----------
    Dong et al. 2022, "CSWin transformer: a general vision transformer backbone with cross-shaped windows",
    CVPR.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dim: int = 64,
        depths: Sequence[int] = (1, 2, 21, 1),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        stripe_widths: Sequence[int] = (1, 2, 7, 7),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.stage1_conv_embed = embedding(in_channels, embed_dim)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        dim = embed_dim
        for number, (heads, width, group) in enumerate(zip(num_heads, stripe_widths, rates, strict=True), 1):
            stripes = crossed_stripes(width, whole=number == 4)
            blocks = (CSwinBlock(dim, heads, stripes, mlp_ratio, qkv_bias, rate) for rate in group.tolist())
            self.add_module(f"stage{number}", nn.Sequential(*blocks))
            self.add_module(f"norm{number}", nn.LayerNorm(dim))
            if number < 4:
                wider = dim * (num_heads[number] // heads)
                self.add_module(f"merge{number}", ConvMerging(dim, wider))
                dim = wider
        init_linear_layers(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image (B, C, H, W) to four normalised maps (B, channels, H / 4, W / 4) to (..., H / 32, W / 32)."""
        y, maps = self.stage1_conv_embed(x), []
        for number in range(1, 5):
            y = getattr(self, f"stage{number}")(y)
            maps.append(getattr(self, f"norm{number}")(y).movedim(-1, 1))
            if number < 4:
                y = getattr(self, f"merge{number}")(y)
        return maps
