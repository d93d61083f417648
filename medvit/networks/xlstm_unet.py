"""xLSTM-UNet: a residual U-Net with Vision-LSTM blocks at its bottleneck or along its encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers.autocast import at_least_float32, without_autocast
from medvit.networks.layers.forms import on_device
from medvit.networks.layers.recurrence import linear_recurrence
from medvit.networks.layers.residual_unet import (
    Decoder,
    Names,
    ProjectedBlock,
    ResidualUNet,
    ResNetDBlock,
    UNetPlan,
    initialise_convolution,
)

LOG2_E = 1 / math.log(2)

# Tokens of a chunk, which are compared with each other; on a CPU 48 to 128 take the same time.
CHUNK = 64


def mlstm(q: Tensor, k: Tensor, v: Tensor, input_gate: Tensor, forget_gate: Tensor) -> Tensor:
    """Matrix-memory LSTM with exponential gating (Beck et al. 2024, arXiv 2405.04517, section 2.3).

    Token t reads h_t = sum_s w_ts v_s / (max(|sum_s w_ts|, exp(-m_t)) + 1e-6) over the tokens s <= t, with
    w_ts = exp(l_ts - m_t) q_t k_s / sqrt(D), l_ts = i_s + sum of logsigmoid(f) over s+1 ... t, and m_t the
    largest l_ts.

    Parameters
    ----------
    q, k, v
        Queries, keys and values (B, H, S, D).
    input_gate, forget_gate
        Gates i and f before their activation (B, H, S).

    Returns
    -------
    Tensor
        (B, H, S, D).

    Notes
    -----
    Inside a chunk, tokens are compared with each other; earlier tokens enter as a D x D memory that is passed
    from chunk to chunk, so that time and memory grow with S and not with its square.
    """
    length, dim = q.shape[2:]
    size = min(length, CHUNK)
    rest = -length % size
    q, k = (F.pad(x, (0, 0, 0, rest)).unflatten(2, (-1, size)) for x in (q, k * dim**-0.5))
    # A column of ones carries the sum of the weights along with the weighted values.
    v = F.pad(v, (0, 1, 0, rest), value=1.0).unflatten(2, (-1, size))
    # Logarithms are to base 2, as exp2 is several times faster than exp on a CPU.
    gain, forget = (
        F.pad(x * LOG2_E, (0, rest)).unflatten(2, (-1, size)) for x in (input_gate, F.logsigmoid(forget_gate))
    )
    kept = forget.cumsum(-1)
    gain = gain - kept
    memory, memory_scale = _memories(k, v, gain + kept[..., -1:], kept[..., -1])

    later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    inside = (kept[..., None] + gain[..., None, :]).masked_fill(later, -math.inf)
    before = kept + memory_scale[..., None]
    scale = torch.maximum(inside.amax(-1), before)
    weights = torch.exp2(inside - scale[..., None]) * (q @ k.transpose(-1, -2))
    remembered = (q * torch.exp2(before - scale)[..., None]) @ memory
    read = weights @ v + remembered
    # Beyond 2^100 a token reads nothing, and float32 would soon overflow.
    floor = torch.exp2(-scale.clamp(min=-100))
    total = torch.maximum(read[..., -1].abs(), floor) + 1e-6
    return (read[..., :-1] / total[..., None]).flatten(2, 3)[:, :, :length]


def _memories(k: Tensor, v: Tensor, gain: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Memory (B, H, N, D, D + 1) at the start of each chunk, and the logarithm of its scale (B, H, N)."""
    scale = _scales(kept, gain.amax(-1))
    fading = torch.exp2(kept + scale[:, :, :-1] - scale[:, :, 1:])[..., None, None]
    own_memory = (k * torch.exp2(gain - scale[:, :, 1:, None])[..., None]).transpose(-1, -2) @ v
    if not on_device(k):
        memories = [torch.zeros_like(own_memory[:, :, 0])]
        for factor, own in zip(fading.unbind(2), own_memory.unbind(2), strict=True):
            memories.append(torch.addcmul(own, factor, memories[-1]))
        return torch.stack(memories[:-1], 2), scale[:, :, :-1]
    found = linear_recurrence(fading.movedim(2, 0), own_memory.movedim(2, 0)).movedim(0, 2)
    return F.pad(found[:, :, :-1], (0, 0, 0, 0, 1, 0)), scale[:, :, :-1]


def _scales(kept: Tensor, gain: Tensor) -> Tensor:
    """Logarithm of the scale of the memory before each chunk and after the last, (B, H, N + 1)."""
    if on_device(kept):
        # The largest of gains that fade, without a loop. Rounding of a scale cancels where it is used; the
        # limit keeps it small, and what has faded that far is 0 in float32.
        faded = kept.clamp(min=-1024).cumsum(2)
        return F.pad((gain - faded).cummax(2).values + faded, (1, 0), value=-math.inf)
    scales = [torch.full_like(kept[:, :, 0], -math.inf)]
    for faded, own in zip(kept.unbind(2), gain.unbind(2), strict=True):
        scales.append(torch.maximum(faded + scales[-1], own))
    return torch.stack(scales, 2)


class OffsetNorm(nn.Module):
    """LayerNorm over the last axis, or over `groups` parts of it, scaled by 1 + weight, without bias."""

    def __init__(self, dim: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to the same shape."""
        parts = x.unflatten(-1, (self.groups, -1))
        return F.layer_norm(parts, parts.shape[-1:]).flatten(-2) * (1 + self.weight)


class BlockLinear(nn.Module):
    """Linear layer without bias that mixes `size` neighbouring channels at a time."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim // size, size, size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to the same shape."""
        groups = x.unflatten(-1, self.weight.shape[:2])
        return torch.einsum("...gi,goi->...go", groups, self.weight).flatten(-2)


class ViLBlock(nn.Module):
    """Vision-LSTM block (Alkin et al. 2024, arXiv 2406.04303): normalised tokens through a gated mLSTM.

    Parameters
    ----------
    dim
        Channels of a token; 4 heads if it is a multiple of 4, else 2. As published the number of heads is
        also the size of the blocks in which queries, keys and values are projected.
    reverse
        Whether tokens run from the last to the first.
    """

    def __init__(self, dim: int, reverse: bool = False) -> None:
        super().__init__()
        self.heads = heads = 2 if dim % 4 else 4
        self.reverse = reverse
        inner = 2 * dim
        self.norm = OffsetNorm(dim)
        self.up = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, 4, padding=3, groups=inner)
        self.query, self.key, self.value = (BlockLinear(inner, heads) for _ in range(3))
        self.input_gate = nn.Linear(3 * inner, heads)
        self.forget_gate = nn.Linear(3 * inner, heads)
        self.out_norm = OffsetNorm(inner, heads)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, dim, bias=False)
        self._initialise(dim)

    def _initialise(self, dim: int) -> None:
        for part in (self.up, self.query, self.key, self.value):
            nn.init.normal_(part.weight, std=math.sqrt(2 / (5 * dim)))
        nn.init.normal_(self.down.weight, std=2 / math.sqrt(dim))
        nn.init.zeros_(self.input_gate.weight)
        nn.init.normal_(self.input_gate.bias, std=0.1)
        nn.init.zeros_(self.forget_gate.weight)
        # Heads start with memories of different length.
        self.forget_gate.bias.data = torch.linspace(3.0, 6.0, self.heads)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, dim) to the same shape; a token sees only those before it."""
        tokens = x.flip(1) if self.reverse else x
        tokens = self._mix(self.norm(tokens))
        return x + (tokens.flip(1) if self.reverse else tokens)

    def _mix(self, x: Tensor) -> Tensor:
        a, z = self.up(x).chunk(2, dim=-1)
        c = F.silu(self.conv(a.transpose(1, 2))[:, :, : x.shape[1]].transpose(1, 2))
        q, k, v = self.query(c), self.key(c), self.value(a)
        joined = torch.cat([q, k, v], dim=-1)
        gates = self.input_gate(joined).transpose(1, 2), self.forget_gate(joined).transpose(1, 2)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        h = mlstm(q, k, v, *gates)
        h = self.out_norm(h.transpose(1, 2).flatten(2))
        return self.down((h + self.skip * c) * F.silu(z))


class ViLMixer(nn.Module):
    """`ViLBlock` over the positions of a feature map, last axis fastest, or over its channels.

    Autocast is turned off, so that the sums over all tokens are in float32 (float64 stays).

    Parameters
    ----------
    dim
        Channels of the map; its positions if channels are the tokens.
    channel_tokens
        Whether channels are the tokens, each with the map's positions for its channels.
    """

    def __init__(self, dim: int, channel_tokens: bool = False) -> None:
        super().__init__()
        self.channel_tokens = channel_tokens
        self.block = ViLBlock(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) to the same shape."""
        with without_autocast(x):
            tokens = at_least_float32(x).flatten(2)
            if self.channel_tokens:
                return self.block(tokens).reshape(x.shape)
            return self.block(tokens.transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class XLSTMUNet(ResidualUNet):
    """xLSTM-UNet (U-xLSTM) for images and volumes.

    Parameters
    ----------
    spatial_dims
        2 or 3.
    in_channels
        Image channels.
    out_channels
        Number of classes; the output holds their logits.
    variant
        ``"bot"``: one Vision-LSTM block at the bottleneck. ``"enc"``: blocks along the encoder, in 3D after
        every stage from the fourth, in 2D after every second stage, counted back from the last.
    features
        Channels of each stage; by default 32 doubled at each stage, up to 512 in 2D and 320 in 3D.
    kernel_size, strides
        One entry per stage, a number or one per axis; `kernel_size` may be a single number. An nnU-Net plan
        gives them.
    img_size
        Image size of ``"enc"``. As published, where a stage has no more positions than channels, the
        channels become the tokens; such a network accepts only this size, and published weights need it.
        Without `img_size` tokens are positions everywhere, and any size is taken.
    deep_supervision
        Whether training gives the logits of every decoder stage (for ``monai.losses.DeepSupervisionLoss``).
        If False, the unused heads of a published checkpoint are ignored.

    Notes
    -----
    Input (B, in_channels, *size) with edges divisible by the product of the strides; output
    (B, out_channels, *size), or in deeply supervised training a list of them, full resolution first.

    Kept from the published code: the finest decoder stage without a skip in 2D, one number for heads
    and projection blocks, one direction, two blocks in a stage of the first half and one in the others. It
    drops what takes no part in the computation: the cache of causal masks, a LayerNorm that is never read,
    and the second names of a tensor (accepted on loading). It does not edit the lists that it is given.

    The mLSTM runs by chunks, where the published code makes an S x S matrix. Exports (``torch.export``,
    trace, ONNX) are bound to the image size: the chunks are written out one by one.

    References
    ----------
    Chen et al.: xLSTM-UNet can be an effective 2D and 3D medical image segmentation backbone with
    Vision-LSTM (ViL) better than its Mamba counterpart, 2024, arXiv 2407.01530.

    Examples
    --------
    >>> network = XLSTMUNet(spatial_dims=2, out_channels=3, features=(8, 16, 32), strides=(1, 2, 2))
    >>> network(torch.zeros(1, 1, 32, 48)).shape
    torch.Size([1, 3, 32, 48])
    """

    unused = r"^xlstm\.norm\.|^encoder\.xlstm_layers\.\d+\.norm\."

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        *,
        variant: Literal["bot", "enc"] = "bot",
        features: Sequence[int] | None = None,
        kernel_size: Sequence[Sequence[int] | int] | int = 3,
        strides: Sequence[Sequence[int] | int] = (1, 2, 2, 2, 2, 2),
        img_size: Sequence[int] | None = None,
        deep_supervision: bool = False,
    ) -> None:
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, not {spatial_dims}")
        if variant not in ("bot", "enc"):
            raise ValueError(f"variant must be 'bot' or 'enc', not {variant!r}")
        if img_size is not None and len(img_size) != spatial_dims:
            raise ValueError(f"img_size must have {spatial_dims} entries, not {list(img_size)}")
        widest = 512 if spatial_dims == 2 else 320
        features = [min(32 * 2**i, widest) for i in range(len(strides))] if features is None else features
        plan = UNetPlan(spatial_dims, features, kernel_size, strides)
        super().__init__(plan, in_channels, deep_supervision)
        self.img_size = None if img_size is None else tuple(img_size)
        features, kernels, count = plan.features, plan.kernel_size, len(plan.features)

        def stage(i: int, width: int, stride: Sequence[int] | int) -> nn.Module:
            further = 1 if i < math.ceil(count / 2) else 0
            return nn.Sequential(
                ProjectedBlock(spatial_dims, width, features[i], kernels[i], stride),
                *(ResNetDBlock(spatial_dims, features[i], features[i], kernels[i]) for _ in range(further)),
            )

        self.stem = stage(0, in_channels, 1)
        widths = (features[0], *features)
        self.stages = nn.ModuleList(stage(i, widths[i], plan.strides[i]) for i in range(count))
        self.mixers = nn.ModuleList(self._mixer(i, variant) for i in range(count))
        if not any(isinstance(mixer, ViLMixer) for mixer in self.mixers):
            raise ValueError(f"variant 'enc' has no Vision-LSTM block in {count} stages: give more")
        depths = [2 if i < math.ceil(count / 2) else 1 for i in range(count - 1)]
        self.decoder = Decoder(
            spatial_dims, out_channels, features, kernels, depths, self.heads, finest_skip=spatial_dims == 3
        )
        self.apply(initialise_convolution)

    def _mixer(self, i: int, variant: str) -> nn.Module:
        """The layer that follows stage `i`."""
        plan, count, width = self.plan, len(self.plan.features), self.plan.features[i]
        if variant == "bot":
            return ViLMixer(width) if i == count - 1 else nn.Identity()
        in_3d = plan.spatial_dims == 3
        if i < 3 if in_3d else i == 1:
            return ResNetDBlock(plan.spatial_dims, width, width, plan.kernel_size[i])
        if not in_3d and (i == 0 or i % 2 == count % 2):
            return nn.Identity()
        positions = width + 1 if self.img_size is None else math.prod(plan.sizes(self.img_size)[i])
        return ViLMixer(positions, True) if positions <= width else ViLMixer(width)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image to one feature map per stage, finest first.

        Raises
        ------
        ValueError
            If the network is tied to images of another size.
        """
        tied = any(isinstance(mixer, ViLMixer) and mixer.channel_tokens for mixer in self.mixers)
        if tied and tuple(image.shape[2:]) != self.img_size:
            raise ValueError(
                f"this XLSTMUNet has channels as tokens and accepts only images of {self.img_size}, not "
                f"{tuple(image.shape[2:])}: crop to windows of that size, or build it without img_size"
            )
        x = self.stem(image)
        skips = []
        for stage, mixer in zip(self.stages, self.mixers, strict=True):
            x = mixer(stage(x))
            skips.append(x)
        return skips

    def published_names(self) -> Names:
        """One list of mixers stands for the block at the bottleneck and those along the encoder."""
        return ((r"^xlstm\.", f"mixers.{len(self.stages) - 1}."), *PUBLISHED_NAMES)


PUBLISHED_NAMES: Names = (
    (r"^encoder\.xlstm_layers\.", "mixers."),
    (r"^encoder\.(stem|stages)\.", r"\1."),
    (r"\.vil\.(layer\.)?", ".block."),
    (r"\.proj_up\.", ".up."),
    (r"\.conv1d\.conv\.", ".conv."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.mlstm_cell\.igate\.", ".input_gate."),
    (r"\.mlstm_cell\.fgate\.", ".forget_gate."),
    (r"\.mlstm_cell\.outnorm\.", ".out_norm."),
    (r"\.learnable_skip$", ".skip"),
    (r"\.proj_down\.", ".down."),
)
