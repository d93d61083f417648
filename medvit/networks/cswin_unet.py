"""CSWin-UNet: a U-shape of cross-shaped windows for slices (Liu et al. 2025, arXiv 2407.18070)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.cswin import ConvMerging, embedding
from medvit.networks.layers.stripes import CSwinBlock, crossed_stripes
from medvit.networks.layers.vit import init_linear_layers
from medvit.networks.published import (
    LoadReport,
    PublishedNetwork,
    StateDict,
    load_strictly,
    read_checkpoint,
)

# Parameter modules keep the authors' names, so that a published state dict loads as it is.

_STAGES = 4


class CARAFE(nn.Module):
    """Enlarges a map by kernels that it makes from the map's content, one for each fine pixel.

    References
    ----------
    Wang et al. 2019, "CARAFE: content-aware reassembly of features", ICCV.
    """

    def __init__(self, dim: int, out_dim: int, factor: int = 2, kernel_size: int = 3) -> None:
        super().__init__()
        self.factor, self.kernel_size = factor, kernel_size
        self.down = nn.Conv2d(dim, dim // 4, 1)
        self.encoder = nn.Conv2d(dim // 4, (factor * kernel_size) ** 2, 3, padding=1)
        self.out = nn.Conv2d(dim, out_dim, 1)
        self.out_dim = out_dim

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H * factor, W * factor, out_dim)."""
        b, h, w = x.shape[:3]
        x = x.movedim(-1, 1)
        kernels = F.pixel_shuffle(self.encoder(self.down(x)), self.factor).softmax(dim=1)
        # The output layer acts on each pixel, and the kernels weigh pixels: it may come before them, on the
        # coarse map. Its bias comes last.
        coarse = F.conv2d(x, self.out.weight)
        patches = F.unfold(coarse, self.kernel_size, padding=self.kernel_size // 2)
        patches = patches.reshape(b, self.out_dim, -1, h, 1, w, 1)
        kernels = kernels.reshape(b, 1, -1, h, self.factor, w, self.factor)
        y = (patches * kernels).sum(dim=2).reshape(b, self.out_dim, h * self.factor, w * self.factor)
        bias: Tensor = self.out.bias  # type: ignore[assignment]
        return y.movedim(1, -1) + bias


class CSwinUNet(PublishedNetwork):
    """Segments a slice of any size: CSWin stages down and up, joined by skips, enlarged by CARAFE.

    Parameters
    ----------
    in_channels
        Channels of the slice; one channel is repeated to three, as the authors do.
    out_channels
        Classes, background included.
    img_size
        Side, or height and width, of the slices that the network is made for. Where a stage's sides equal its
        stripe, the stage is one window, which changes its parameters. Slices of other sizes run as well.
    embed_dim
        Channels of the first stage; each further one has twice as many.
    depths, num_heads, stripe_widths
        Blocks, heads and width of the stripes, in tokens, of the four stages, down and up alike.
    mlp_ratio, qkv_bias, drop_path_rate
        Usual settings of a transformer; the rate of stochastic depth rises linearly over the blocks.

    References
    ----------
    Liu et al. 2025, "CSWin-UNet: transformer UNet with cross-shaped windows for medical image segmentation",
    Information Fusion 113.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 9,
        img_size: int | Sequence[int] = 224,
        embed_dim: int = 64,
        depths: Sequence[int] = (1, 2, 9, 1),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        stripe_widths: Sequence[int] = (1, 2, 7, 7),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.repeats = 3 if in_channels == 1 else 1
        self.stage1_conv_embed = embedding(in_channels * self.repeats, embed_dim)
        sides = (img_size,) if isinstance(img_size, int) else tuple(img_size)
        widths = [embed_dim * 2**stage for stage in range(_STAGES)]
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        for stage, (dim, heads, group) in enumerate(zip(widths, num_heads, rates, strict=True)):
            covered = {side // 2 ** (stage + 2) for side in sides} == {stripe_widths[stage]}
            whole = stage == _STAGES - 1 or covered
            stripes = crossed_stripes(stripe_widths[stage], whole=whole)
            for name, order in (("stage", group.tolist()), ("stage_up", group.tolist()[::-1])):
                blocks = (CSwinBlock(dim, heads, stripes, mlp_ratio, qkv_bias, rate) for rate in order)
                self.add_module(f"{name}{stage + 1}", nn.Sequential(*blocks))
        for stage in range(1, _STAGES):
            self.add_module(f"merge{stage}", ConvMerging(widths[stage - 1], widths[stage]))
            self.add_module(f"upsample{stage + 1}", CARAFE(widths[stage], widths[stage - 1]))
            self.add_module(f"concat_linear{stage + 1}", nn.Linear(2 * widths[stage - 1], widths[stage - 1]))
        self.norm = nn.LayerNorm(widths[-1])
        self.norm_up = nn.LayerNorm(embed_dim)
        self.upsample1 = CARAFE(embed_dim, embed_dim, factor=4)
        self.output = nn.Conv2d(embed_dim, out_channels, 1, bias=False)
        init_linear_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Slice (B, C, H, W) to logits (B, classes, H, W)."""
        height, width = x.shape[-2:]
        if self.repeats > 1:
            x = x.expand(-1, self.repeats, -1, -1)
        # Every stage halves the map; a slice is filled up with zeros to whole tokens of the coarsest one.
        right, down = (-n % 2 ** (_STAGES + 1) for n in (width, height))
        y = self.stage1_conv_embed(F.pad(x, (0, right, 0, down)) if right or down else x)
        skips = []
        for stage in range(1, _STAGES):
            y = getattr(self, f"stage{stage}")(y)
            skips.append(y)
            y = getattr(self, f"merge{stage}")(y)
        bottom = self.get_submodule("stage4"), self.norm, self.get_submodule("stage_up4")
        for layer in bottom:
            y = layer(y)
        for stage in range(_STAGES, 1, -1):
            y = torch.cat([skips[stage - 2], getattr(self, f"upsample{stage}")(y)], dim=-1)
            y = getattr(self, f"stage_up{stage - 1}")(getattr(self, f"concat_linear{stage}")(y))
        y = self.upsample1(self.norm_up(y)).movedim(-1, 1)
        return self.output(y)[..., :height, :width]

    def load_backbone(self, source: str | Path | Mapping[str, Any]) -> LoadReport:
        """Load a CSwin backbone (of ImageNet or of `CSwin`) into the stages down and up, as the authors do.

        Where a stage of the backbone has more blocks, the first ones are taken. Joins, enlargements, the last
        norm and the readout stay as they are.

        Raises
        ------
        WeightsError
            If an entry is missing or of the wrong shape; nothing is loaded then.
        """
        given = read_checkpoint(source)
        if "norm4.weight" in given:
            given |= {f"norm.{part}": given[f"norm4.{part}"] for part in ("weight", "bias")}
        sources = {
            name: name.replace("stage_up", "stage")
            for name in self.state_dict()
            if name.startswith(("stage", "merge", "norm."))
        }
        new = {name: value for name, value in self.state_dict().items() if name not in sources}
        filled = {name: given[theirs] for name, theirs in sources.items() if theirs in given}
        left = tuple(sorted(set(given) - set(sources.values())))
        return LoadReport(load_strictly(self, new | filled, dict).matched - len(new), left)

    def _own_entries(self, published: StateDict) -> StateDict:
        return {name.removeprefix("cswin_unet."): value for name, value in published.items()}
