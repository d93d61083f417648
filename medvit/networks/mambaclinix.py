"""MambaClinix: a residual U-Net with convolutional mixing in its shallow and Mamba in its deep stages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.layers import DropPath
from torch import Tensor, nn

from medvit.networks.layers.autocast import at_least_float32, without_autocast
from medvit.networks.layers.residual_unet import (
    SLOPE,
    ConvUnit,
    Decoder,
    Names,
    ResidualUNet,
    ResNetDBlock,
    UNetPlan,
    conv,
    initialise_convolution,
)
from medvit.networks.layers.scan import selective_scan


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every voxel."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to the same shape."""
        x = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


class HierarchicalConv(nn.Module):
    """Channel groups of doubling width, each combined with the result of the narrower ones.

    The paper's hgConv. The paper describes gating, but its code adds where a gate would multiply, and so does
    this class.

    Parameters
    ----------
    channels
        Divisible by 2^(order - 1).
    kernel_size
        Edge of the depthwise kernel.
    order
        Number of groups.
    """

    def __init__(self, channels: int, kernel_size: Sequence[int], order: int) -> None:
        super().__init__()
        if channels % 2 ** (order - 1):
            raise ValueError(
                f"a stage of {2 * channels} features cannot be split {order} times: "
                f"it needs a multiple of {2**order}"
            )
        self.widths = [channels // 2**i for i in reversed(range(order))]
        split = sum(self.widths)
        self.proj_in = conv(3, channels, 2 * channels)
        self.depthwise = conv(3, split, split, kernel_size, groups=split)
        self.widen = nn.ModuleList(
            conv(3, narrow, wide) for narrow, wide in zip(self.widths, self.widths[1:], strict=False)
        )
        self.proj_out = conv(3, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to the same shape."""
        base, rest = self.proj_in(x).split([self.widths[0], sum(self.widths)], dim=1)
        first, *others = self.depthwise(rest).split(self.widths, dim=1)
        x = base + first
        for widen, group in zip(self.widen, others, strict=True):
            x = widen(x) + group
        return self.proj_out(x)


class ConvMixer(nn.Module):
    """`HierarchicalConv` on half the channels and two convolutions, added to the input: the paper's HGCN."""

    def __init__(self, channels: int, kernel_size: Sequence[int], order: int, drop_path: float) -> None:
        super().__init__()
        half = channels // 2
        self.reduce = conv(3, channels, half)
        self.mix_norm = ChannelNorm(half)
        self.mix = HierarchicalConv(half, kernel_size, order)
        self.scale = nn.Parameter(torch.full((half,), 1e-6))
        self.expand_norm = ChannelNorm(half)
        self.expand = conv(3, half, channels, kernel_size)
        self.smooth = conv(3, channels, channels, kernel_size)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to the same shape."""
        u = self.reduce(x)
        u = u + self.drop_path(self.scale[:, None, None, None] * self.mix(self.mix_norm(u)))
        u = self.smooth(F.leaky_relu(self.expand(self.expand_norm(u)), SLOPE))
        return x + self.drop_path(u)


class Mamba(nn.Module):
    """The Mamba block (Gu and Dao 2023, arXiv 2312.00752, figure 3): gated causal convolution and scan.

    Parameters
    ----------
    dim
        Channels of a token.
    state, kernel_size, expand
        States a channel, width of the causal convolution, widening of the channels inside.
    """

    def __init__(self, dim: int, state: int = 16, kernel_size: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16)
        self.splits = [rank, state, state]
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel_size, padding=kernel_size - 1, groups=inner)
        self.select = nn.Linear(inner, rank + 2 * state, bias=False)
        self.step = nn.Linear(rank, inner)
        self.log_rates = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        nn.init.uniform_(self.step.weight, -(rank**-0.5), rank**-0.5)
        # The steps start log-uniform in [0.001, 0.1]; their bias is the inverse softplus of that.
        steps = torch.empty(inner).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.step.bias.data = steps + torch.log(-torch.expm1(-steps))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) to the same shape; a token sees only those before it."""
        u, gate = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        u = F.silu(self.conv(u)[:, :, : x.shape[1]])
        step, b, c = self.select(u.transpose(1, 2)).split(self.splits, dim=-1)
        y = selective_scan(
            u, F.linear(step, self.step.weight).transpose(1, 2), -self.log_rates.exp(),
            b.transpose(1, 2), c.transpose(1, 2), self.skip, gate, self.step.bias, delta_softplus=True,
        )  # fmt: skip
        assert isinstance(y, Tensor)
        return self.out_proj(y.transpose(1, 2))


class MambaMixer(nn.Module):
    """Mamba over the voxels, W fastest, one way; added to the input.

    The same LayerNorm is applied before and after the Mamba block, as published. Autocast is turned off.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to the same shape, in float32 (float64 stays)."""
        with without_autocast(x):
            x = at_least_float32(x)
            tokens = self.norm(x.flatten(2).transpose(1, 2))
            tokens = self.proj(self.norm(self.mamba(tokens)))
            return x + tokens.transpose(1, 2).reshape(x.shape)


class MambaClinix(ResidualUNet):
    """MambaClinix for volumes.

    Parameters
    ----------
    in_channels
        Image channels.
    out_channels
        Number of classes; the output holds their logits.
    features
        Channels of each stage. The first ceil(n/2) of the n stages get a `ConvMixer` of order s + 2, so
        stage s there needs a multiple of 2^(s + 2).
    kernel_size, strides
        One entry per stage, a number or one per axis; `kernel_size` may be one number for all. An nnU-Net
        plan gives them.
    drop_path_rate
        Stochastic depth of the last stage; it grows linearly from 0 (0.5 as published).
    deep_supervision
        Whether training gives the logits of every decoder stage (for ``monai.losses.DeepSupervisionLoss``).
        If False, the unused heads of a published checkpoint are ignored.

    Notes
    -----
    Input (B, in_channels, D, H, W) with edges divisible by the product of the strides; output
    (B, out_channels, D, H, W), or in deeply supervised training a list of them, full resolution first.

    Kept from the published code: the sum where the paper describes a gate, one LayerNorm before and
    after Mamba, the one-way scan, one residual block a stage whatever a plan says. It
    drops what takes no part in the computation: ``skip_scale``, and the second names of a tensor (accepted
    on loading). It does not edit the lists that it is given. The region-specific loss of the paper is
    `medvit.losses.MambaClinixLoss`.

    Exports (``torch.export``, trace, ONNX) are bound to the image size: the scan is written out in steps.

    References
    ----------
    Bian et al.: MambaClinix, hierarchical gated convolution and Mamba-based U-Net for enhanced 3D medical
    image segmentation, 2024, arXiv 2409.12533.

    Examples
    --------
    >>> network = MambaClinix(features=(8, 16, 32, 64), strides=(1, 2, 2, 2), out_channels=3)
    >>> network(torch.zeros(1, 1, 16, 24, 32)).shape
    torch.Size([1, 3, 16, 24, 32])
    """

    unused = r"\.skip_scale$"

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        *,
        features: Sequence[int] = (32, 64, 128, 256, 320, 320),
        kernel_size: Sequence[Sequence[int] | int] | int = 3,
        strides: Sequence[Sequence[int] | int] = (1, 2, 2, 2, 2, 2),
        drop_path_rate: float = 0.5,
        deep_supervision: bool = False,
    ) -> None:
        plan = UNetPlan(3, features, kernel_size, strides)
        super().__init__(plan, in_channels, deep_supervision)
        features, kernels, count = plan.features, plan.kernel_size, len(plan.features)
        self.shallow = math.ceil(count / 2)
        self.stem = ConvUnit(3, in_channels, features[0], kernels[0])
        widths = (features[0], *features)
        self.stages = nn.ModuleList(
            ResNetDBlock(3, widths[i], width, kernels[i], plan.strides[i]) for i, width in enumerate(features)
        )
        self.mixers = nn.ModuleList(
            ConvMixer(width, kernels[i], i + 2, drop_path_rate * i / (count - 1))
            if i < self.shallow
            else MambaMixer(width)
            for i, width in enumerate(features)
        )
        self.norm = ChannelNorm(features[self.shallow - 1])
        self.refine = nn.ModuleList(
            ResNetDBlock(3, width, width, kernel) for width, kernel in zip(features, kernels, strict=True)
        )
        self.decoder = Decoder(3, out_channels, features, kernels, [1] * (count - 1), self.heads)
        self.apply(initialise_convolution)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image to one feature map per stage, finest first."""
        x = self.stem(image)
        skips = []
        for i, (stage, mixer, refine) in enumerate(zip(self.stages, self.mixers, self.refine, strict=True)):
            x = stage(x)
            x = mixer(self.norm(x) if i == self.shallow - 1 else x)
            skips.append(refine(x))
        return skips

    def published_names(self) -> Names:
        """The authors count the refinements from the deepest, which is named separately."""
        deepest = len(self.stages) - 1
        refine = [
            (rf"^decoder\.residual_blocks\.{deepest - 1 - i}\.", f"refine.{i}.") for i in range(deepest)
        ]
        return ((r"^decoder\.Init_Residual\.", f"refine.{deepest}."), *refine, *PUBLISHED_NAMES)


PUBLISHED_NAMES: Names = (
    (r"^encoder\.stem\.convs\.0\.", "stem."),
    (r"^encoder\.stages\.(\d+)\.blocks\.0\.", r"stages.\1."),
    (r"^decoder\.stages\.(\d+)\.", r"decoder.stages.\1.0."),
    (r"^encoder\.LayerNorm\.", "norm."),
    (r"^encoder\.encoder_layers\.", "mixers."),
    (r"\.gamma1$", ".scale"),
    (r"\.hgConvs\.", ".mix."),
    (r"\.dwconv\.", ".depthwise."),
    (r"\.reconv\.", ".widen."),
    (r"\.lynorm1\.", ".mix_norm."),
    (r"\.lynorm2\.", ".expand_norm."),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"^(mixers\.\d+)\.transconv\.conv\.", r"\1.reduce."),
    (r"^(mixers\.\d+)\.conv1\.conv\.", r"\1.expand."),
    (r"^(mixers\.\d+)\.conv2\.conv\.", r"\1.smooth."),
    (r"\.mamba\.A_log$", ".mamba.log_rates"),
    (r"\.mamba\.D$", ".mamba.skip"),
    (r"\.mamba\.conv1d\.", ".mamba.conv."),
    (r"\.mamba\.x_proj\.", ".mamba.select."),
    (r"\.mamba\.dt_proj\.", ".mamba.step."),
)
