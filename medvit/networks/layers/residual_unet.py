"""The residual U-Net of the nnU-Net family, on which MambaClinix and xLSTM-UNet build."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn

from medvit.errors import WeightsError
from medvit.networks.published import LoadReport, StateDict, load_strictly, read_checkpoint

SLOPE = 0.01

Names = tuple[tuple[str, str], ...]


def conv(
    spatial_dims: int, in_channels: int, out_channels: int, kernel_size: Sequence[int] | int = 1,
    stride: Sequence[int] | int = 1, *, groups: int = 1, bias: bool = True,
) -> nn.Module:  # fmt: skip
    """Convolution of 2 or 3 axes, padded so that stride 1 keeps the size (odd kernels)."""
    kernel = (kernel_size,) * spatial_dims if isinstance(kernel_size, int) else tuple(kernel_size)
    padding = tuple(k // 2 for k in kernel)
    return Conv[Conv.CONV, spatial_dims](
        in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias
    )


def instance_norm(spatial_dims: int, channels: int) -> nn.Module:
    """Instance norm with weight and bias, without running statistics."""
    return Norm[Norm.INSTANCE, spatial_dims](channels, affine=True)


class ConvUnit(nn.Module):
    """Convolution, instance norm and, unless `act` is off, leaky ReLU."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, kernel_size: Sequence[int] | int = 1,
        stride: Sequence[int] | int = 1, *, bias: bool = True, act: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = conv(spatial_dims, in_channels, out_channels, kernel_size, stride, bias=bias)
        self.norm = instance_norm(spatial_dims, out_channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *size) to (B, out, *size / stride)."""
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, SLOPE) if self.act else x


class ResNetDBlock(nn.Module):
    """Residual block of ResNet-D: a strided shortcut pools first and projects then (He et al. 2019)."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, kernel_size: Sequence[int],
        stride: Sequence[int] | int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = ConvUnit(spatial_dims, in_channels, out_channels, kernel_size, stride)
        self.conv2 = ConvUnit(spatial_dims, out_channels, out_channels, kernel_size, act=False)
        strided = stride > 1 if isinstance(stride, int) else max(stride) > 1
        self.pool = Pool[Pool.AVG, spatial_dims](stride, stride) if strided else nn.Identity()
        self.project = (
            ConvUnit(spatial_dims, in_channels, out_channels, bias=False, act=False)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *size) to (B, out, *size / stride)."""
        return F.leaky_relu(self.conv2(self.conv1(x)) + self.project(self.pool(x)), SLOPE)


class ProjectedBlock(nn.Module):
    """Residual block whose shortcut is always a 1x1 convolution with bias and without norm."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, kernel_size: Sequence[int],
        stride: Sequence[int] | int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = ConvUnit(spatial_dims, in_channels, out_channels, kernel_size, stride)
        self.conv2 = ConvUnit(spatial_dims, out_channels, out_channels, kernel_size, act=False)
        self.project = conv(spatial_dims, in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, *size) to (B, out, *size / stride)."""
        return F.leaky_relu(self.conv2(self.conv1(x)) + self.project(x), SLOPE)


class Decoder(nn.Module):
    """From the deepest feature map to logits.

    A stage upsamples (nearest neighbour after the 1x1 convolution: the two commute, and this order costs
    less), joins the skip and applies a `ProjectedBlock` and further `ResNetDBlock`s.

    Parameters
    ----------
    spatial_dims
        2 or 3.
    out_channels
        Classes.
    features, kernel_size
        One entry per encoder stage, finest first.
    depths
        Blocks of each decoder stage, deepest first.
    levels
        Number of stages, from the finest, that have a head.
    finest_skip
        Whether the finest stage joins the finest skip.
    """

    def __init__(
        self, spatial_dims: int, out_channels: int, features: Sequence[int],
        kernel_size: Sequence[Sequence[int]], depths: Sequence[int], levels: int, finest_skip: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.joins = [target > 0 or finest_skip for target in reversed(range(len(features) - 1))]
        targets = list(zip(features[-2::-1], features[:0:-1], kernel_size[-2::-1], strict=True))
        self.reduce = nn.ModuleList(conv(spatial_dims, below, width) for width, below, _ in targets)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ProjectedBlock(spatial_dims, width * (1 + join), width, kernel),
                *(ResNetDBlock(spatial_dims, width, width, kernel) for _ in range(depth - 1)),
            )
            for (width, _, kernel), depth, join in zip(targets, depths, self.joins, strict=True)
        )
        self.heads = nn.ModuleList(conv(spatial_dims, width, out_channels) for width in features[:levels])

    def forward(self, skips: Sequence[Tensor], levels: int) -> list[Tensor]:
        """Feature maps, finest first, to the logits of the `levels` finest stages, finest first."""
        x = skips[-1]
        maps = []
        for i, (reduce, stage) in enumerate(zip(self.reduce, self.stages, strict=True)):
            skip = skips[-2 - i]
            x = F.interpolate(reduce(x), size=skip.shape[2:], mode="nearest")
            x = stage(torch.cat([x, skip], dim=1) if self.joins[i] else x)
            maps.append(x)
        return [head(x) for head, x in zip(self.heads[:levels], reversed(maps), strict=False)]


class UNetPlan:
    """Features, kernels and strides of the stages, as an nnU-Net plan gives them, checked.

    Parameters
    ----------
    spatial_dims
        2 or 3.
    features
        Channels of each stage.
    kernel_size, strides
        One entry per stage, a number or one number per axis; `kernel_size` may be one number for all.

    Raises
    ------
    ValueError
        If the lists do not have one entry per stage, a kernel is even or the first stride is not 1.
    """

    def __init__(
        self, spatial_dims: int, features: Sequence[int], kernel_size: Sequence[Sequence[int] | int] | int,
        strides: Sequence[Sequence[int] | int],
    ) -> None:  # fmt: skip
        self.spatial_dims = spatial_dims
        self.features = tuple(features)
        kernels = [kernel_size] * len(features) if isinstance(kernel_size, int) else kernel_size
        self.kernel_size = [self._axes(kernel) for kernel in kernels]
        self.strides = [self._axes(stride) for stride in strides]
        if len(features) < 2 or not len(features) == len(self.kernel_size) == len(self.strides):
            raise ValueError(
                f"features, kernel_size and strides need one entry for each of two or more stages, not "
                f"{len(features)}, {len(self.kernel_size)} and {len(self.strides)}"
            )
        if any(k % 2 == 0 for kernel in self.kernel_size for k in kernel):
            raise ValueError(f"kernel_size must be odd on every axis, not {self.kernel_size}")
        if max(self.strides[0]) > 1:
            raise ValueError(f"the first stride must be 1, not {self.strides[0]}")

    def _axes(self, value: Sequence[int] | int) -> tuple[int, ...]:
        axes = (value,) * self.spatial_dims if isinstance(value, int) else tuple(value)
        if len(axes) != self.spatial_dims:
            raise ValueError(f"{list(axes)} must have {self.spatial_dims} entries, one an axis")
        return axes

    def sizes(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """Grid of each stage for an image of `size`."""
        grids = [tuple(size)]
        for stride in self.strides[1:]:
            grids.append(tuple(n // s for n, s in zip(grids[-1], stride, strict=True)))
        return grids

    def check(self, image: Tensor, in_channels: int, name: str) -> None:
        """Refuse an image whose channels or edges the network `name` cannot take."""
        axes = ("D", "H", "W")[-self.spatial_dims :]
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != in_channels:
            raise ValueError(
                f"{name} needs an image (B, {in_channels}, {', '.join(axes)}), not {tuple(image.shape)}"
            )
        size = [int(n) for n in image.shape[2:]]
        factors = [math.prod(stride) for stride in zip(*self.strides, strict=True)]
        if any(n % factor for n, factor in zip(size, factors, strict=True)):
            raise ValueError(f"{name} needs edges divisible by {factors}, not {size}: pad the image")
        if math.prod(self.sizes(size)[-1]) < 2:
            raise ValueError(
                f"an image of {size} leaves one position at the deepest stage, which instance norm cannot "
                "take: pad one edge to twice its length"
            )


# A checkpoint holds a tensor under every path that leads to it: the decoder keeps the encoder, and a unit
# keeps its convolution and norm in a list as well.
_ALIASES = (
    (r"^decoder\.encoder\.", "encoder."),
    (r"\.all_modules\.0\.", ".conv."),
    (r"\.all_modules\.1\.", ".norm."),
)


def merge_aliases(published: StateDict) -> StateDict:
    """The tensors of a published state dict, each once, under its first name.

    Raises
    ------
    WeightsError
        If two names of one tensor hold different values.
    """
    merged: StateDict = {}
    for alias, value in published.items():
        name = _substitute(alias, _ALIASES)
        if name in merged and not torch.equal(merged[name], value):
            raise WeightsError(f"the checkpoint holds two versions of {name}, one of them under {alias}")
        merged[name] = value
    return merged


# Entry names of the parts in this file.
_PUBLISHED_NAMES = (
    (r"\.skip\.[01]\.", ".project."),
    (r"\.conv3\.", ".project."),
    (r"\.norm([12])\.(?=weight|bias)", r".conv\1.norm."),
    (r"\.conv([12])\.(?=weight|bias)", r".conv\1.conv."),
    (r"^decoder\.upsample_layers\.(\d+)\.conv\.", r"decoder.reduce.\1."),
)


def rename_published(published: StateDict, names: Names) -> StateDict:
    """The authors' entry names as ours, by the patterns of a network and those of the shared parts."""
    return {
        _substitute(name, (*names, *_PUBLISHED_NAMES)): value
        for name, value in merge_aliases(published).items()
    }


def _substitute(name: str, patterns: Names) -> str:
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def initialise_convolution(module: nn.Module) -> None:
    """He initialisation for leaky ReLU, as nnU-Net; for ``network.apply``."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ResidualUNet(nn.Module, ABC):
    """Base of the networks of this family: the plan, the levels of output, the published weights.

    A subclass makes `encode` and a `Decoder` named ``decoder``; `published_names` and `unused`, a pattern of
    entries that take no part in the computation, say how its weights were published.

    Parameters
    ----------
    plan
        Its stages.
    in_channels
        Image channels.
    deep_supervision
        Whether training gives logits of every decoder stage.
    """

    decoder: Decoder
    unused: ClassVar[str]

    def __init__(self, plan: UNetPlan, in_channels: int, deep_supervision: bool) -> None:
        super().__init__()
        self.plan = plan
        self.in_channels = in_channels
        self.deep_supervision = deep_supervision

    @property
    def heads(self) -> int:
        """Number of output levels."""
        return len(self.plan.features) - 1 if self.deep_supervision else 1

    @abstractmethod
    def encode(self, image: Tensor) -> list[Tensor]:
        """Image to one feature map per stage, finest first."""

    @abstractmethod
    def published_names(self) -> Names:
        """Pattern and replacement of the published names that only this network has."""

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Image (B, in_channels, *size) to logits (B, out_channels, *size).

        Returns
        -------
        Tensor or list of Tensor
            In deeply supervised training a list, full resolution first.
        """
        if self.training and self.deep_supervision:
            return self.levels(image)
        return self.levels(image, 1)[0]

    def levels(self, image: Tensor, count: int | None = None) -> list[Tensor]:
        """Logits of the first `count` output levels (all by default), full resolution first.

        Raises
        ------
        ValueError
            If the network cannot take the image, or has fewer levels.
        """
        count = self.heads if count is None else count
        if not 1 <= count <= self.heads:
            raise ValueError(f"this {type(self).__name__} has {self.heads} output level(s), not {count}")
        self.plan.check(image, self.in_channels, type(self).__name__)
        return self.decoder(self.encode(image), count)

    def load_published(self, source: str | Path | Mapping[str, Any]) -> LoadReport:
        """Fill the network from a checkpoint of the authors' code, every entry or none.

        Parameters
        ----------
        source
            A file (nnU-Net's ``checkpoint_final.pth``, ``.safetensors``) or what it holds.

        Raises
        ------
        WeightsError
            If the file is unsafe to open, an entry is missing, left over or of another shape, or two names
            of one tensor hold different values.
        """
        stages = len(self.plan.features) - 1
        # The published heads are counted from the deepest, and all are there whether trained or not.
        heads = [(rf"^decoder\.seg_layers\.{stages - 1 - i}\.", f"decoder.heads.{i}.") for i in range(stages)]
        unused = [self.unused, *(pattern for pattern, _ in heads[self.heads :])]
        return load_part(self, read_checkpoint(source), (*heads, *self.published_names()), "|".join(unused))


def load_part(network: nn.Module, published: StateDict, names: Names, unused: str) -> LoadReport:
    """Load published entries strictly into `network`, or into a part of it that has the same entry names."""
    ignored = tuple(name for name in published if re.search(unused, _substitute(name, _ALIASES)))
    return load_strictly(network, published, lambda state: rename_published(state, names), ignored=ignored)
