"""ParaTransCNN: a ResNet-34 and a pyramid transformer side by side, joined at three scales (Sun 2024)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvit.networks.layers.vit import TransformerBlock
from medvit.networks.published import (
    LoadReport,
    PublishedNetwork,
    StateDict,
    load_strictly,
    read_checkpoint,
    renamed,
)


class BasicBlock(nn.Module):
    """ResNet's basic block: two 3x3 convolutions, and an identity or strided 1x1 convolution as shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


def _resnet_layer(in_channels: int, out_channels: int, *, depth: int, stride: int) -> nn.Sequential:
    rest = (BasicBlock(out_channels, out_channels, stride=1) for _ in range(depth - 1))
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *rest)


class ResNet34(nn.Module):
    """ResNet-34 without its max-pool and head, so that its maps are twice as fine as usual.

    The entries have the names that torchvision gives them, so that ImageNet weights fit.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _resnet_layer(64, 64, depth=3, stride=1)
        self.layer2 = _resnet_layer(64, 128, depth=4, stride=2)
        self.layer3 = _resnet_layer(128, 256, depth=6, stride=2)
        self.layer4 = _resnet_layer(256, 512, depth=3, stride=2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in, H, W) to maps of 128, 256, 512 channels at 1/4, 1/8, 1/16."""
        x = self.layer1(torch.relu(self.bn1(self.conv1(image))))
        maps = []
        for layer in (self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


class TransformerStage(nn.Module):
    """Non-overlapping patches and blocks of full attention, without position encoding and final norm."""

    def __init__(
        self, in_channels: int, dim: int, patch_size: int, depth: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        # The published attention path drops twice in a row; one dropout of this rate has the same
        # distribution.
        twice = 1 - (1 - dropout) ** 2
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(
                    dim, num_heads, 2 * dim, qkv_bias=False,
                    attention_dropout=dropout, path_dropout=twice, mlp_dropout=dropout,
                )
                for _ in range(depth)
            )
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, dim, H / patch, W / patch)."""
        x = self.embed(x)
        tokens = self.blocks(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(x.shape)


class SqueezeExcitation(nn.Module):
    """Channels weighted by a gate of their global means."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return x * self.gate(x.mean((2, 3)))[:, :, None, None]


def _double_convolution(channels: int) -> nn.Sequential:
    """Two units of 3x3 convolution, BatchNorm, ReLU."""
    units: list[nn.Module] = []
    for _ in range(2):
        units += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*units)


class ParaTransCNN(PublishedNetwork):
    """ParaTransCNN for slices.

    Parameters
    ----------
    in_channels
        Image channels. One is repeated to three, so that ImageNet weights apply; three are the published
        form; any other number makes first layers of that width.
    out_channels
        Number of classes; the output holds their logits.
    dim
        Channels of the first transformer stage; the second and third have 2 and 4 times as many. The
        published 320 makes 245 million parameters, 64 about 48 million.
    num_heads
        Attention heads in every stage; they divide `dim`.
    depths
        Transformer blocks in the three stages.
    dropout
        Rate of every dropout.

    Notes
    -----
    Input (B, in_channels, H, W) with H and W multiples of 16, output (B, out_channels, H, W).

    Against the published code: the repetition of a grey slice is the network's own, weights are never
    downloaded (`load_imagenet` takes a file), and intermediate tokens are not kept. The absent max-pool, the
    bias-free attention and its doubled dropout are as published. For volumes see
    `medvit.inference.segment_slices`.

    References
    ----------
    Sun, Xu, Duan: ParaTransCNN, parallelized TransCNN encoder for medical image segmentation, 2024,
    arXiv 2401.15307.

    Examples
    --------
    >>> network = ParaTransCNN(in_channels=1, out_channels=4, dim=32, num_heads=4, depths=(1, 1, 1))
    >>> network(torch.zeros(1, 1, 64, 96)).shape
    torch.Size([1, 4, 64, 96])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 9,
        *,
        dim: int = 320,
        num_heads: int = 8,
        depths: Sequence[int] = (3, 3, 3),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        stem_channels = 3 if in_channels == 1 else in_channels
        dims = (dim, 2 * dim, 4 * dim)
        joined = [a + b for a, b in zip(dims, (128, 256, 512), strict=True)]
        self.cnn = ResNet34(stem_channels)
        self.transformer = nn.ModuleList(
            TransformerStage(before, after, 4 if i == 0 else 2, depths[i], num_heads, dropout)
            for i, (before, after) in enumerate(zip((stem_channels, *dims[:2]), dims, strict=True))
        )
        self.gates = nn.ModuleList(SqueezeExcitation(channels) for channels in joined)
        # A level of the decoder joins its gated map with as many channels from below (except the finest).
        half = joined[2] // 2
        widths = (joined[0] + half, joined[1] + half, joined[2])
        self.decoders = nn.ModuleList(_double_convolution(width) for width in widths)
        self.ups = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], dim, 4, 4),
                nn.ConvTranspose2d(widths[1], half, 2, 2),
                nn.ConvTranspose2d(widths[2], half, 2, 2),
            ]
        )
        self.readout = nn.Conv2d(dim, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, in_channels, H, W) to logits (B, out_channels, H, W)."""
        self._check(image)
        if self.in_channels == 1:
            image = image.expand(-1, 3, -1, -1)
        tokens, maps = image, []
        for stage, gate, features in zip(self.transformer, self.gates, self.cnn(image), strict=True):
            tokens = stage(tokens)
            maps.append(gate(torch.cat([tokens, features], dim=1)))
        x = self.ups[2](self.decoders[2](maps[2]))
        for i in (1, 0):
            x = self.ups[i](self.decoders[i](torch.cat([maps[i], x], dim=1)))
        return self.readout(x)

    def _check(self, image: Tensor) -> None:
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ValueError(
                f"ParaTransCNN needs an image (B, {self.in_channels}, H, W), not {tuple(image.shape)}"
            )
        if any(n % 16 for n in image.shape[2:]):
            raise ValueError(f"an image edge must be a multiple of 16, not {tuple(image.shape[2:])}: pad it")

    def _own_entries(self, published: StateDict) -> StateDict:
        return renamed(published, _PUBLISHED_NAMES)

    def load_imagenet(self, source: str | Path | Mapping[str, Any]) -> LoadReport:
        """Fill the convolutional branch from ImageNet weights of ResNet-34, as torchvision stores them.

        Parameters
        ----------
        source
            A file (``resnet34-b627a593.pth``) or what it holds; its classifier ``fc`` is not used.

        Raises
        ------
        WeightsError
            If the file is unsafe to open, or an entry is missing, unexpected or of the wrong shape.
        """
        return load_strictly(self.cnn, read_checkpoint(source), dict, ignored=("fc.weight", "fc.bias"))


_HALVES = ("norm1", "attention"), ("norm2", "mlp")


def _transformer_layer(match: re.Match[str]) -> str:
    """``vit_S.net.I.fn.*``: even entries of ``net`` are attentions, odd ones perceptrons."""
    block, half = divmod(int(match[2]), 2)
    norm, body = _HALVES[half]
    return f"transformer.{int(match[1]) - 1}.blocks.{block}.{norm if match[3] == 'norm' else body}."


# The authors number the gates and decoders from the coarsest scale.
_PUBLISHED_NAMES = (
    (r"^vit_(\d)\.net\.(\d+)\.fn\.(norm|fn\.net|fn)\.", _transformer_layer),
    (r"^patch_embed_(\d)\.", lambda m: f"transformer.{int(m[1]) - 1}.embed."),
    (r"^firstconv\.", "cnn.conv1."),
    (r"^firstbn\.", "cnn.bn1."),
    (r"^encoder(\d)\.", r"cnn.layer\1."),
    (r"^SE_(\d)\.fc\.", lambda m: f"gates.{3 - int(m[1])}.gate."),
    (r"^decoder(\d)\.", lambda m: f"decoders.{3 - int(m[1])}."),
    (r"^(decoders\.\d)\.conv(\d)\.", lambda m: f"{m[1]}.{int(m[2]) // 2 * 3}."),
    (r"^(decoders\.\d)\.norm(\d)\.", lambda m: f"{m[1]}.{int(m[2]) // 2 * 3 + 1}."),
    (r"^up(\d)_1\.", lambda m: f"ups.{int(m[1]) - 1}."),
    (r"^out\.", "readout."),
)
