"""SegFormer3D: a pyramid transformer encoder with a linear decoder (Perera et al. 2024, arXiv 2404.10156)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers import cpu_blocks, pyramid
from medvit.networks.layers.detail import DetailReadout, DetailStem
from medvit.networks.published import PublishedNetwork, StateDict, renamed

# Inside the network a feature map is channels-last, (B, D, H, W, C): linear layers and norms read it as it
# is, and a convolution sees it through `_channels_first` as channels_last_3d memory, without a copy.


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 4, 1, 2, 3)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 4, 1)


def _norm(kind: Literal["batch", "group"], channels: int) -> nn.Module:
    if kind not in ("batch", "group"):
        raise ValueError(f"norm must be 'batch' or 'group', not {kind!r}")
    return nn.BatchNorm3d(channels) if kind == "batch" else nn.GroupNorm(8, channels)


class ChannelsLastConv3d(nn.Conv3d):
    """A convolution whose feature maps are channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, in) to (B, D', H', W', out)."""
        x = _channels_first(x)
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript leaves out such a block, not a condition)
            if cpu_blocks.apply(x, self.weight):
                return _channels_last(cpu_blocks.convolve(self, x))
        return _channels_last(self._conv_forward(x, self.weight, self.bias))


def _upsample(x: Tensor, size: list[int]) -> Tensor:
    if not torch.jit.is_scripting():  # noqa: SIM102
        if pyramid.apply(x, x):
            return pyramid.upsampled(x, size)
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


class OverlapPatchEmbedding(nn.Module):
    """Overlapping strided convolution and LayerNorm (section 3.1 of the paper)."""

    def __init__(self, in_channels: int, dim: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.proj = ChannelsLastConv3d(in_channels, dim, kernel_size, stride, padding)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, in) to (B, D', H', W', dim)."""
        return self.norm(self.proj(x))


class EfficientAttention(nn.Module):
    """Every voxel attends to a grid that a strided convolution has shrunk (section 3.1).

    Parameters
    ----------
    dim, num_heads
        Channels and heads; `num_heads` divides `dim`.
    reduction
        Edge of the strided convolution that shrinks the key/value grid; 1 leaves it as it is.
    scale
        ``"head_dim"``: 1/sqrt(channels of a head), the paper's formula. ``"heads"``: 1/sqrt(number of
        heads), as in the code under which the published weights were trained.
    """

    def __init__(self, dim: int, num_heads: int, reduction: int, scale: Literal["head_dim", "heads"]) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the embedding dimension ({dim})")
        if scale not in ("head_dim", "heads"):
            raise ValueError(f"attention_scale must be 'head_dim' or 'heads', not {scale!r}")
        self.num_heads = num_heads
        self.scale = (num_heads if scale == "heads" else dim // num_heads) ** -0.5
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.reduce = ChannelsLastConv3d(dim, dim, reduction, reduction) if reduction > 1 else None
        self.reduce_norm = nn.LayerNorm(dim) if reduction > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        source = x
        if self.reduce is not None and self.reduce_norm is not None:
            source = self.reduce_norm(self.reduce(x))
        key, value = self.key_value(source).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._heads(self.query(x)), self._heads(key), self._heads(value), scale=self.scale
        )
        return self.proj(attended.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, self.num_heads, x.shape[-1] // self.num_heads).transpose(1, 2)


class ConvFeedForward(nn.Module):
    """Two linear layers around a depthwise 3x3x3 convolution, which encodes position (section 3.1)."""

    def __init__(self, dim: int, ratio: float, norm: Literal["batch", "group"]) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.expand = nn.Linear(dim, hidden)
        self.depthwise = nn.Conv3d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm = _norm(norm, hidden)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        x = self.norm(self._convolve(_channels_first(self.expand(x))))
        return self.contract(F.gelu(_channels_last(x)))

    def _convolve(self, x: Tensor) -> Tensor:
        # On a CPU, torch 2.13's bfloat16 weight gradient of a depthwise convolution is occasionally wrong
        # on small grids; in float32 it is right, and no slower.
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript leaves out such a block, not a condition)
            if x.device.type == "cpu" and x.dtype != torch.float32 and torch.is_autocast_enabled("cpu"):
                with torch.autocast("cpu", enabled=False):
                    return self.depthwise(x.float())
        return self.depthwise(x)


class SegFormerBlock(nn.Module):
    """Attention and feed-forward, each with a norm before it and a residual connection."""

    def __init__(
        self, dim: int, num_heads: int, ratio: float, reduction: int,
        scale: Literal["head_dim", "heads"], norm: Literal["batch", "group"],
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = EfficientAttention(dim, num_heads, reduction, scale)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = ConvFeedForward(dim, ratio, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class SegFormerStage(nn.Module):
    """Patch embedding, blocks and a closing norm: one level of the pyramid."""

    def __init__(self, embed: OverlapPatchEmbedding, blocks: Sequence[SegFormerBlock], dim: int) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) of the level above to (B, D', H', W', C') of this level."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Fusion(nn.Module):
    """All levels, projected to one width and mixed on the finest level's grid (section 3.2).

    The published form upsamples every level, joins them to four times the width and mixes by a 1x1x1
    convolution. That convolution has no bias and trilinear weights sum to one, so it commutes with the
    upsampling: here each level is mixed with its own columns of the kernel on its own small grid, and only
    the results are upsampled and added. Same function, no joined tensor.
    """

    def __init__(self, dims: Sequence[int], width: int, norm: Literal["batch", "group"]) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in dims)
        self.project_norm = nn.ModuleList(nn.LayerNorm(width) for _ in dims)
        self.mix = nn.Conv3d(width * len(dims), width, 1, bias=False)
        self.mix_norm = _norm(norm, width)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Levels (B, D_i, H_i, W_i, C_i), finest first, to (B, width, D_1, H_1, W_1)."""
        # The kernel's columns stand coarsest level first, as published.
        kernels = self.mix.weight.flatten(1).chunk(len(levels), dim=1)[::-1]
        if not torch.jit.is_scripting():  # noqa: SIM102
            if pyramid.apply(levels[0], self.mix.weight):
                summed = pyramid.fused(levels, self.project, self.project_norm, kernels)
                return F.relu_(_channels_first(pyramid.normalised(self.mix_norm, summed)))
        size = list(levels[0].shape[1:4])
        fused = torch.zeros(())
        # Module lists of one length, which TorchScript walks through without `strict`.
        for i, (project, norm) in enumerate(zip(self.project, self.project_norm)):  # noqa: B905
            mixed = _channels_first(F.linear(norm(project(levels[i])), kernels[i]))
            fused = mixed if i == 0 else fused + _upsample(mixed, size)
        return F.relu(self.mix_norm(fused))


class MLPHead(nn.Module):
    """The published decoder: fusion, a 1x1x1 readout, and trilinear upsampling to the image."""

    def __init__(
        self,
        dims: Sequence[int], width: int, out_channels: int, dropout: float,
        norm: Literal["batch", "group"], stride: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stride = stride
        self.fuse = Fusion(dims, width, norm)
        self.dropout = nn.Dropout(dropout)
        self.readout = nn.Conv3d(width, out_channels, 1)

    def forward(self, levels: list[Tensor], size: list[int]) -> Tensor:
        """Levels of the encoder to logits (B, out_channels, *size)."""
        fused = _channels_last(self.dropout(self.fuse(levels)))
        # A product over channels-last memory; as a convolution it takes torch's slow kernel on a CPU.
        logits = _channels_first(F.linear(fused, self.readout.weight.flatten(1), self.readout.bias))
        # The finest token i is centred on voxel stride * i, so a grid that reaches past the image is cropped.
        reach = [n * self.stride for n in logits.shape[2:]]
        d, h, w = size
        return _upsample(logits, reach)[:, :, :d, :h, :w]


class DetailHead(DetailReadout):
    """Fusion, joined at half resolution with the stem's map, and logits unfolded to every voxel.

    Not of the paper: its head reads out at a quarter of the resolution, which at 2 mm voxels is too coarse
    for cortex and deep nuclei.
    """

    def __init__(
        self,
        dims: Sequence[int], width: int, stem_width: int, out_channels: int, norm: Literal["batch", "group"],
    ) -> None:  # fmt: skip
        super().__init__(width, stem_width, out_channels)
        self.fuse = Fusion(dims, width, norm)

    def forward(self, levels: list[Tensor], stem: Tensor) -> Tensor:  # type: ignore[override]
        """Levels of the encoder and the stem's map (B, C, D/2, H/2, W/2) to logits (B, out, D, H, W)."""
        return self.read_out(_upsample(self.fuse(levels), list(stem.shape[2:])), stem)


class SegFormer3D(PublishedNetwork):
    """SegFormer3D for volumes of any box shape.

    Parameters
    ----------
    in_channels
        Image channels (4 in the paper's BraTS task).
    out_channels
        Number of classes; the output holds their logits.
    embed_dims, num_heads, depths, mlp_ratios, sr_ratios
        Channels, heads, blocks, feed-forward ratio and key/value reduction of the four stages.
    patch_kernel_size, patch_stride, patch_padding
        Patch embedding of the four stages. With ``head="detail"`` the first counts on the half-resolution
        grid of the stem.
    decoder_dim
        Width of the decoder.
    decoder_dropout
        Dropout before the readout.
    attention_scale
        ``"head_dim"`` is the paper's formula and the right choice for training. ``"heads"`` is the rule of
        the code of April 2024, which the published BraTS weights need; their state dict does not show it.
    head
        ``"mlp"``, the published decoder, or ``"detail"``, a half-resolution stem and readout that resolve
        structures of one or two voxels (not in the paper; no published weights).
    norm
        ``"batch"`` as published, or ``"group"``, which does not depend on the batch.

    Notes
    -----
    Any box is accepted whose first two token grids are at least `sr_ratios` wide; with the defaults, edges
    of 13 voxels or more. The authors' class accepts only cubes, on which the output is the same. Their output
    is longer than the image where an edge is not a multiple of the first stride; here it is cropped.

    References
    ----------
    Perera, Navard, Yilmaz: SegFormer3D, an efficient transformer for 3D medical image segmentation,
    CVPR workshops 2024, arXiv 2404.10156.

    Examples
    --------
    >>> network = SegFormer3D(in_channels=1, out_channels=3, depths=(1, 1, 1, 1))
    >>> network(torch.zeros(1, 1, 32, 48, 40)).shape
    torch.Size([1, 3, 32, 48, 40])
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        *,
        embed_dims: Sequence[int] = (32, 64, 160, 256),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        depths: Sequence[int] = (2, 2, 2, 2),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        sr_ratios: Sequence[int] = (4, 2, 1, 1),
        patch_kernel_size: Sequence[int] = (7, 3, 3, 3),
        patch_stride: Sequence[int] = (4, 2, 2, 2),
        patch_padding: Sequence[int] = (3, 1, 1, 1),
        decoder_dim: int = 256,
        decoder_dropout: float = 0.0,
        attention_scale: Literal["head_dim", "heads"] = "head_dim",
        head: Literal["mlp", "detail"] = "mlp",
        norm: Literal["batch", "group"] = "batch",
    ) -> None:
        super().__init__()
        if head not in ("mlp", "detail"):
            raise ValueError(f"head must be 'mlp' or 'detail', not {head!r}")
        self.in_channels = in_channels
        self.sr_ratios, self.patch_stride = tuple(sr_ratios), tuple(patch_stride)
        self.patch_kernel_size, self.patch_padding = tuple(patch_kernel_size), tuple(patch_padding)
        self.stem = DetailStem(in_channels, embed_dims[0]) if head == "detail" else None
        widths = (in_channels if self.stem is None else embed_dims[0], *embed_dims)
        self.stages = nn.ModuleList(
            SegFormerStage(
                OverlapPatchEmbedding(
                    widths[i], dim, patch_kernel_size[i], patch_stride[i], patch_padding[i]
                ),
                [
                    SegFormerBlock(dim, num_heads[i], mlp_ratios[i], sr_ratios[i], attention_scale, norm)
                    for _ in range(depths[i])
                ],
                dim,
            )
            for i, dim in enumerate(embed_dims)
        )
        self.head: MLPHead | DetailHead
        if head == "detail":
            self.head = DetailHead(embed_dims, decoder_dim, embed_dims[0], out_channels, norm)
        else:
            self.head = MLPHead(embed_dims, decoder_dim, out_channels, decoder_dropout, norm, patch_stride[0])
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, in_channels, D, H, W) to logits (B, out_channels, D, H, W)."""
        if not torch.jit.is_scripting():
            self._check(image)
        stem = None if self.stem is None else self.stem(image)
        x = _channels_last(image if stem is None else stem)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return self.head(levels, image.shape[2:] if stem is None else stem)

    def _check(self, image: Tensor) -> None:
        if image.ndim != 5 or image.shape[1] != self.in_channels:
            given = tuple(image.shape)
            raise ValueError(f"SegFormer3D needs an image (B, {self.in_channels}, D, H, W), not {given}")
        grid = [int(n) for n in image.shape[2:]]
        if self.stem is not None:
            if any(n % 2 for n in grid):
                raise ValueError(f"the detail head needs even edges, not {grid}: pad the image")
            grid = [n // 2 for n in grid]
        for kernel, stride, padding, reduction in zip(
            self.patch_kernel_size, self.patch_stride, self.patch_padding, self.sr_ratios, strict=True
        ):
            grid = [(n + 2 * padding - kernel) // stride + 1 for n in grid]
            if min(grid) < reduction:
                raise ValueError(
                    f"an image of {tuple(image.shape[2:])} leaves a token grid of {grid}, "
                    f"smaller than its reduction of {reduction}: pad the image"
                )

    def _own_entries(self, published: StateDict) -> StateDict:
        return renamed(published, _PUBLISHED_NAMES)


def _initialise(module: nn.Module) -> None:
    """As the authors: linear layers normal(0.02), convolutions scaled by their fan-out."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_PUBLISHED_NAMES = (
    (r"segformer_encoder\.embed_(\d)\.patch_embeddings\.", lambda m: f"stages.{int(m[1]) - 1}.embed.proj."),
    (r"segformer_encoder\.embed_(\d)\.norm\.", lambda m: f"stages.{int(m[1]) - 1}.embed.norm."),
    (r"segformer_encoder\.tf_block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"segformer_encoder\.norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
    (r"\.attention\.sr\.", ".attention.reduce."),
    (r"\.attention\.sr_norm\.", ".attention.reduce_norm."),
    (r"\.mlp\.fc1\.", ".ffn.expand."),
    (r"\.mlp\.fc2\.", ".ffn.contract."),
    (r"\.mlp\.dwconv\.dwconv\.", ".ffn.depthwise."),
    (r"\.mlp\.dwconv\.bn\.", ".ffn.norm."),
    (r"segformer_decoder\.linear_c(\d)\.proj\.", lambda m: f"head.fuse.project.{int(m[1]) - 1}."),
    (r"segformer_decoder\.linear_c(\d)\.bn\.", lambda m: f"head.fuse.project_norm.{int(m[1]) - 1}."),
    (r"segformer_decoder\.linear_fuse\.0\.", "head.fuse.mix."),
    (r"segformer_decoder\.linear_fuse\.1\.", "head.fuse.mix_norm."),
    (r"segformer_decoder\.linear_pred\.", "head.readout."),
)
