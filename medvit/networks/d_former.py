"""D-Former: a U-shaped 3D transformer with local and dilated attention (Wu et al. 2022, arXiv 2201.00462)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medvit.networks.layers.forms import on_device
from medvit.networks.published import PublishedNetwork, StateDict, rename

# Tokens are channels-last throughout, (B, D, H, W, C).

if TYPE_CHECKING:
    Logits = Tensor | list[Tensor]
else:  # a network in TorchScript gives full size only
    Logits = Tensor

# Tokens that the head takes at a time on a CPU.
_CACHED_TOKENS = 512


def _pad_end(x: Tensor, size: list[int]) -> Tensor:
    """Tokens (B, D, H, W, C) with zeros at the end of the axes up to `size`."""
    d, h, w = size[0] - x.shape[1], size[1] - x.shape[2], size[2] - x.shape[3]
    return F.pad(x, [0, 0, 0, w, 0, h, 0, d]) if d + h + w > 0 else x


def _crop(x: Tensor, size: list[int]) -> Tensor:
    d, h, w = size
    return x[:, :d, :h, :w]


def _shuffle(x: Tensor, factors: list[int]) -> Tensor:
    """(B, D, H, W, f0*f1*f2*C) to (B, D*f0, H*f1, W*f2, C)."""
    b, d, h, w, _ = x.shape
    f, g, k = factors
    x = x.reshape(b, d, h, w, f, g, k, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, d * f, h * g, w * k, -1)


class PositionEncoding(nn.Module):
    """Depthwise 3x3x3 convolution added to its input, once per stage (dynamic position encoding)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        return x + self.conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class GroupAttention(nn.Module):
    """Self-attention inside groups of tokens: boxes of neighbours, or tokens a regular step apart.

    Parameters
    ----------
    dim, num_heads
        Channels and heads.
    group_size
        Tokens of a group along D, H, W.
    dilated
        False: local scope, in which a group is a box. True: global scope, in which a group is spread over the
        whole grid with a step of ``grid // group_size`` along each axis.
    """

    def __init__(self, dim: int, num_heads: int, group_size: Sequence[int], dilated: bool) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the channels of its stage ({dim})")
        self.num_heads, self.dilated = num_heads, dilated
        self.group_size = list(group_size)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        grid = [int(n) for n in x.shape[1:4]]
        counts, members = self.partition(grid)
        size = [counts[i] * members[i] for i in range(3)]
        # A linear layer acts on each token alone, so only real tokens are projected and then grouped.
        query, key, value = self._group(_pad_end(self.qkv(x), size), counts, members, 3).unbind(0)
        mask: Tensor | None = None
        if size != grid:
            real = _pad_end(torch.ones_like(x[..., : self.num_heads], dtype=torch.bool), size)
            mask = self._group(real, counts, members, 1)[0, :, :1].transpose(-1, -2)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.proj(_crop(self._ungroup(attended, counts, members), grid))

    def partition(self, grid: list[int]) -> tuple[list[int], list[int]]:
        """Groups and tokens of a group along each axis; their products reach or exceed the grid."""
        if grid[1] < self.group_size[1]:  # like the authors' class, which considers only H
            return [1, 1, 1], grid
        if self.dilated:
            counts = [max(1, grid[i] // self.group_size[i]) for i in range(3)]
            return counts, [-(-grid[i] // counts[i]) for i in range(3)]
        members = [min(grid[i], self.group_size[i]) for i in range(3)]
        return [-(-grid[i] // members[i]) for i in range(3)], members

    def _group(self, x: Tensor, counts: list[int], members: list[int], parts: int) -> Tensor:
        """Tokens (B, D, H, W, parts*heads*c) to (parts, B*groups, heads, tokens of a group, c)."""
        a, b = (members, counts) if self.dilated else (counts, members)
        heads, dim = self.num_heads, x.shape[-1] // parts // self.num_heads
        x = x.reshape(-1, a[0], b[0], a[1], b[1], a[2], b[2], parts, heads, dim)
        order = [7, 0, 2, 4, 6, 8, 1, 3, 5, 9] if self.dilated else [7, 0, 1, 3, 5, 8, 2, 4, 6, 9]
        tokens = members[0] * members[1] * members[2]
        return x.permute(order).reshape(parts, -1, self.num_heads, tokens, x.shape[-1])

    def _ungroup(self, x: Tensor, counts: list[int], members: list[int]) -> Tensor:
        """(B*groups, heads, tokens of a group, c) to tokens (B, D, H, W, heads*c), padding included."""
        c, m = counts, members
        x = x.reshape(-1, c[0], c[1], c[2], self.num_heads, m[0], m[1], m[2], x.shape[-1])
        order = [0, 5, 1, 6, 2, 7, 3, 4, 8] if self.dilated else [0, 1, 5, 2, 6, 3, 7, 4, 8]
        return x.permute(order).reshape(-1, c[0] * m[0], c[1] * m[1], c[2] * m[2], self.proj.in_features)


class DFormerBlock(nn.Module):
    """Attention and feed-forward, each with a norm before it and a residual connection."""

    def __init__(
        self, dim: int, num_heads: int, group_size: Sequence[int], mlp_ratio: float, dilated: bool
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.attention = GroupAttention(dim, num_heads, group_size, dilated)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class DFormerStage(nn.Module):
    """Position encoding and blocks that alternate between local and global scope."""

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        group_size: Sequence[int],
        mlp_ratio: float,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.position = PositionEncoding(dim)
        self.blocks = nn.ModuleList(
            DFormerBlock(dim, num_heads, group_size, mlp_ratio, dilated=i % 2 == 1) for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        x = self.position(x)
        for block in self.blocks:
            if not torch.jit.is_scripting() and self.use_checkpoint:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class DFormerEmbedding(nn.Module):
    """Non-overlapping patches, zero-padded at the end of the volume, projected and normalised."""

    def __init__(self, in_channels: int, dim: int, patch_size: Sequence[int]) -> None:
        super().__init__()
        d, h, w = self.patch_size = tuple(patch_size)
        self.proj = nn.Conv3d(in_channels, dim, (d, h, w), (d, h, w))
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in, D, H, W) to tokens (B, D', H', W', dim)."""
        d, h, w = (
            -int(image.shape[2]) % self.patch_size[0],
            -int(image.shape[3]) % self.patch_size[1],
            -int(image.shape[4]) % self.patch_size[2],
        )
        x = F.pad(image, [0, w, 0, h, 0, d]) if d + h + w > 0 else image
        return self.norm(self.proj(x).permute(0, 2, 3, 4, 1))


class TokenMerging(nn.Module):
    """2x2x2 tokens to one of twice the channels; an odd axis gets one zero token at its end."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * dim)
        self.reduce = nn.Linear(8 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to (B, D/2, H/2, W/2, 2C), sizes rounded up."""
        x = _pad_end(x, [int(n) + int(n) % 2 for n in x.shape[1:4]])
        b, d, h, w, c = x.shape
        x = x.reshape(b, d // 2, 2, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return self.reduce(self.norm(x.reshape(b, d // 2, h // 2, w // 2, 8 * c)))


class Expand(nn.Module):
    """One token to 2x2x2 of half the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 4 * dim, bias=False)
        self.norm = nn.LayerNorm(dim // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to (B, 2D, 2H, 2W, C/2)."""
        return self.norm(_shuffle(self.expand(x), [2, 2, 2]))


class Head(nn.Module):
    """Tokens to the logits of the voxels of their patches.

    The published form moves `dim` channels to their voxels, then normalises and projects them to classes.
    Both act on each voxel alone, so here they come before the move: the same function, and the tensor that
    is moved has `out_channels` channels.
    """

    def __init__(self, dim: int, out_channels: int, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.patch_size = list(patch_size)
        self.voxels = self.patch_size[0] * self.patch_size[1] * self.patch_size[2]
        self.expand = nn.Linear(dim, self.voxels * dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.readout = nn.Linear(dim, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, D, H, W, C) to logits (B, out, D*pd, H*ph, W*pw)."""
        tokens = x.flatten(1, 3)
        # A CPU holds the voxels of some tokens in its cache, those of all of them in memory.
        parts = [tokens]
        if not torch.jit.is_scripting():
            parts = [tokens] if on_device(x) else list(tokens.split(_CACHED_TOKENS, dim=1))
        logits = torch.cat([self._voxel_logits(part) for part in parts], dim=1)
        return _shuffle(logits.unflatten(1, x.shape[1:4]), self.patch_size).permute(0, 4, 1, 2, 3)

    def _voxel_logits(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) to the logits of their voxels (B, N, voxels*out)."""
        voxels = self.expand(tokens).unflatten(-1, [self.voxels, -1])
        return self.readout(self.norm(voxels)).flatten(-2)


class DFormer(PublishedNetwork):
    """D-Former (dilated transformer) for volumes of any box shape.

    Parameters
    ----------
    in_channels, out_channels
        Image channels and classes; the output holds logits.
    embed_dim
        Channels of the first stage; every further stage doubles them.
    depths, num_heads
        Blocks and heads of the four stages; the decoder mirrors the depths of the first three.
    patch_size
        Voxels of a token along D, H, W: (2, 4, 4) for Synapse, (1, 4, 4) for ACDC. The first axis is
        the through-plane one.
    group_size
        Tokens of an attention group along D, H, W.
    mlp_ratio
        Width of the feed-forward part over the width of its stage.
    deep_supervision
        Whether training gives logits of full, half and quarter size.
    init
        ``"default"``: PyTorch's own, as the authors train from scratch; ``"trunc_normal"``: linear layers
        normal(0.02), which their code applies only together with pretrained weights.
    use_checkpoint
        Recompute the blocks of encoder and decoder in the backward pass (the authors' class omits the
        decoder), which takes less memory and more time.

    Notes
    -----
    Input (B, in_channels, D, H, W). Output (B, out_channels, D, H, W); in training mode with deep
    supervision a list of such logits at full, half and quarter size, as `monai.losses.DeepSupervisionLoss`
    takes them. The authors' class computes three and returns two: `levels` gives any number in any mode.
    Their class also ignores its `num_classes` and `embed_dim` (14 and 96); here both count.

    Sizes: the authors' class accepts edges of which ``size / patch_size`` is a multiple of 8 and, at each
    stage whose H is at least the group's, no axis is shorter than the group and ``size // group`` divides
    the axis. There the results are equal. Here any size is accepted: incomplete groups are padded and the
    padding is masked as key on all three axes (the class forgets depth), odd grids are padded before
    merging and cropped after expanding. As in the class, a grid with H below the group is one group.
    The kind of attention is chosen for the grid of every call; the authors' class changes for good
    on its first small volume.

    Export: the example fixes the size of the volume, because it fixes the groups, but not the batch.

    No weights are published. `load_published` reads the layout of the authors' class.

    References
    ----------
    Wu, Liao, Chen, Wang, Chen, Gao, Wu: D-Former, a U-shaped dilated transformer for 3D medical image
    segmentation, Neural Computing and Applications 2022, arXiv 2201.00462. Position encoding: Chu et al.,
    arXiv 2102.10882.

    Examples
    --------
    >>> network = DFormer(1, 3, embed_dim=24, depths=(2, 2, 2, 2), deep_supervision=False)
    >>> network(torch.zeros(1, 1, 20, 40, 36)).shape
    torch.Size([1, 3, 20, 40, 36])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 14,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        patch_size: Sequence[int] = (2, 4, 4),
        group_size: Sequence[int] = (2, 8, 8),
        mlp_ratio: float = 4.0,
        deep_supervision: bool = True,
        init: Literal["default", "trunc_normal"] = "default",
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        for name, value, length in (
            ("depths", depths, 4), ("num_heads", num_heads, 4), ("patch_size", patch_size, 3),
            ("group_size", group_size, 3),
        ):  # fmt: skip
            if len(value) != length or min(value) < 1:
                raise ValueError(f"{name} must hold {length} positive integers, not {tuple(value)}")
        if init not in ("default", "trunc_normal"):
            raise ValueError(f"init must be 'default' or 'trunc_normal', not {init!r}")
        self.in_channels, self.deep_supervision = in_channels, deep_supervision
        dims = [embed_dim * 2**i for i in range(4)]

        def stage(i: int) -> DFormerStage:
            return DFormerStage(dims[i], depths[i], num_heads[i], group_size, mlp_ratio, use_checkpoint)

        self.patch_embed = DFormerEmbedding(in_channels, embed_dim, patch_size)
        self.encoder = nn.ModuleList(stage(i) for i in range(4))
        self.merges = nn.ModuleList(TokenMerging(dim) for dim in dims[:3])
        self.bottom_norm = nn.LayerNorm(dims[3])
        # Index 0 of everything below is the finest level.
        self.expands = nn.ModuleList(Expand(dim) for dim in dims[1:])
        self.joins = nn.ModuleList(nn.Linear(2 * dim, dim) for dim in dims[:3])
        self.decoder = nn.ModuleList(stage(i) for i in range(3))
        self.top_norm = nn.LayerNorm(embed_dim)
        self.heads = nn.ModuleList(
            Head(dim, out_channels, patch_size) for dim in dims[: 3 if deep_supervision else 1]
        )
        if init == "trunc_normal":
            self.apply(_truncated_normal)

    def forward(self, image: Tensor) -> Logits:
        """Image (B, in_channels, D, H, W) to logits; a list of them in deeply supervised training."""
        if not torch.jit.is_scripting() and self.training and self.deep_supervision:
            return self.levels(image)
        return self.levels(image, 1)[0]

    def levels(self, image: Tensor, count: int | None = None) -> list[Tensor]:
        """Logits at the first `count` output levels (all by default): full size, half, quarter.

        Raises
        ------
        ValueError
            If the image is not (B, in_channels, D, H, W), or more levels are asked for than there are heads.
        """
        count = len(self.heads) if count is None else count
        if not 1 <= count <= len(self.heads):
            raise ValueError(f"this DFormer has {len(self.heads)} output level(s), not {count}")
        if not torch.jit.is_scripting():
            self._check(image)
        size = [int(n) for n in image.shape[2:]]
        features = self._features(image)
        logits: list[Tensor] = []
        for level, head in enumerate(self.heads):
            if level < count:
                logits.append(_crop_logits(head(features[level]), size))
            size = [(n + 1) // 2 for n in size]
        return logits

    def _check(self, image: Tensor) -> None:
        if image.ndim != 5 or image.shape[1] != self.in_channels or 0 in image.shape:
            raise ValueError(
                f"DFormer needs an image (B, {self.in_channels}, D, H, W), not {tuple(image.shape)}"
            )

    def _features(self, image: Tensor) -> list[Tensor]:
        """Tokens from which the heads read, finest first."""
        x = self.patch_embed(image)
        skips: list[Tensor] = []
        # TorchScript takes module indices only as literals, and no `strict`.
        for stage, merge in zip(self.encoder, self.merges):  # noqa: B905
            skips.append(x)
            x = merge(stage(x))
        x = self.bottom_norm(self.encoder[3](x))
        quarter = _crop(self.expands[2](x), list(skips[2].shape[1:4]))
        x = self.decoder[2](self.joins[2](torch.cat([quarter, skips[2]], dim=-1)))
        half = _crop(self.expands[1](x), list(skips[1].shape[1:4]))
        x = self.decoder[1](self.joins[1](torch.cat([half, skips[1]], dim=-1)))
        full = _crop(self.expands[0](x), list(skips[0].shape[1:4]))
        x = self.decoder[0](self.joins[0](torch.cat([full, skips[0]], dim=-1)))
        return [self.top_norm(x), half, quarter]

    def _own_entries(self, published: StateDict) -> StateDict:
        return rename_published(published)

    def _unused_entries(self, published: StateDict) -> tuple[str, ...]:
        lower = re.compile(r"final\.[12]\.")
        return () if self.deep_supervision else tuple(name for name in published if lower.match(name))


def _crop_logits(x: Tensor, size: list[int]) -> Tensor:
    d, h, w = size
    return x[:, :, :d, :h, :w]


def _truncated_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_PUBLISHED_NAMES = (
    (r"^model_down\.patch_embed\.", "patch_embed."),
    (r"^model_down\.layers\.(\d)\.downsample\.reduction\.", r"merges.\1.reduce."),
    (r"^model_down\.layers\.(\d)\.downsample\.", r"merges.\1."),
    (r"^model_down\.layers\.(\d)\.", r"encoder.\1."),
    (r"^model_down\.norm\.", "bottom_norm."),
    (r"^model_down\.norm_up\.", "top_norm."),
    (r"^model_down\.layers_up\.0\.(expand|norm)\.", r"expands.2.\1."),
    (r"^model_down\.layers_up\.(\d)\.upsample\.", lambda m: f"expands.{2 - int(m[1])}."),
    (r"^model_down\.layers_up\.(\d)\.", lambda m: f"decoder.{3 - int(m[1])}."),
    (r"^model_down\.concat_back_dim\.(\d)\.", lambda m: f"joins.{3 - int(m[1])}."),
    (r"^final\.(\d)\.0\.", r"heads.\1."),
    (r"^final\.(\d)\.1\.", r"heads.\1.readout."),
    (r"\.pos_block\.proj\.0\.", ".position.conv."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".ffn.0."),
    (r"\.mlp\.fc2\.", ".ffn.2."),
)


def rename_published(published: StateDict) -> StateDict:
    """The authors' entry names as ours; only the 1x1x1 readout becomes a matrix."""
    renamed = {}
    for name, value in published.items():
        name = rename(name, _PUBLISHED_NAMES)
        renamed[name] = value.flatten(1) if re.match(r"heads\.\d\.readout\.", name) else value
    return renamed
