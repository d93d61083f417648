"""Swin UNETR: MONAI's network with the old patch merging, safe loading and a fast path (Hatamizadeh 2022)."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from monai.networks.nets import swin_unetr as monai_swin
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medvit.errors import WeightsError
from medvit.networks.layers import cpu_blocks
from medvit.networks.layers.forms import on_device
from medvit.networks.published import LoadReport, StateDict, load_strictly, read_checkpoint

PatchMergingName = Literal["current", "legacy", "v2"]


class LegacyPatchMerging(monai_swin.PatchMergingV2):
    """Patch merging of MONAI up to 1.4, which takes two of the eight corners twice and omits two.

    Every published Swin UNETR was trained under it. In two dimensions all versions agree.
    """

    CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to (B, ceil(D / 2), ceil(H / 2), ceil(W / 2), 2C)."""
        if x.ndim != 5:
            return super().forward(x)
        depth, height, width = x.shape[1:4]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2, 0, depth % 2))
        corners = [x[:, d::2, h::2, w::2] for d, h, w in self.CORNERS]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


PATCH_MERGING: dict[str, Any] = {
    "current": monai_swin.PatchMerging,
    "legacy": LegacyPatchMerging,
    "v2": monai_swin.PatchMergingV2,
}


class SwinUNETR(monai_swin.SwinUNETR):
    """Swin UNETR with the same entries and results as MONAI's.

    Parameters
    ----------
    in_channels
        Image channels.
    out_channels
        Number of classes; the output holds their logits.
    feature_size
        Channels of the first stage, a multiple of 12: 48 is the published base, 24 small, 12 tiny.
    patch_merging
        ``"current"``, MONAI 1.5 and newer, for new trainings; ``"legacy"``, MONAI 1.4 and older, under
        which all published weights were trained; ``"v2"``, MONAI's ``mergingv2``. The entries are alike,
        the outputs are not: under the wrong one published weights lose a quarter of their signal.
    depths, num_heads
        Blocks and heads of the four stages.
    window_size
        Edge of the attention windows.
    norm_name
        Norm of the convolutional blocks, in MONAI's terms.
    normalize
        Whether the encoder's maps are normalised before the decoder, as in all published weights.
    drop_rate, attn_drop_rate, dropout_path_rate
        Dropout of tokens, of attention weights, and stochastic depth.
    use_checkpoint
        Recompute the transformer blocks in the backward pass, which saves memory.
    use_v2
        A residual convolution before each stage (no published weights).
    spatial_dims
        2 or 3.

    Notes
    -----
    Input (B, in_channels, *size) with every edge a multiple of 32 and one at least 64, output
    (B, out_channels, *size).

    MONAI's class remains the definition; only the computation differs. Attention runs without
    score matrices in memory, padding or masks, with gradients too: regions that MONAI keeps apart by -100
    are attended to separately, and the padding of a window is one key (so attention dropout drops it
    whole). Without gradients, in float32 on a CPU, the convolutional blocks keep channels last, go to
    oneDNN directly (PyTorch itself falls back to a slow kernel for small maps) and normalise in place.

    ``img_size``, which bundles of MONAI 1.4 pass, no longer exists and must be left out.

    References
    ----------
    Hatamizadeh et al.: Swin UNETR, 2022, arXiv 2201.01266. Tang et al.: Self-supervised pre-training of
    Swin transformers for 3D medical image analysis, CVPR 2022, arXiv 2111.14791.

    Examples
    --------
    >>> network = SwinUNETR(in_channels=1, out_channels=3, feature_size=12)
    >>> network(torch.zeros(1, 1, 64, 32, 32)).shape
    torch.Size([1, 3, 64, 32, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        feature_size: int = 24,
        patch_merging: PatchMergingName = "current",
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: Sequence[int] | int = 7,
        norm_name: tuple | str = "instance",
        normalize: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        dropout_path_rate: float = 0.0,
        use_checkpoint: bool = False,
        use_v2: bool = False,
        spatial_dims: int = 3,
    ) -> None:
        if patch_merging not in PATCH_MERGING:
            raise ValueError(f"patch_merging must be one of {sorted(PATCH_MERGING)}, not {patch_merging!r}")
        super().__init__(
            in_channels,
            out_channels,
            feature_size=feature_size,
            downsample=PATCH_MERGING[patch_merging],
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            norm_name=norm_name,
            normalize=normalize,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            dropout_path_rate=dropout_path_rate,
            use_checkpoint=use_checkpoint,
            use_v2=use_v2,
            spatial_dims=spatial_dims,
        )
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.patch_merging = patch_merging
        self.plain_norm = norm_name == "instance"

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, in_channels, *size) to logits (B, out_channels, *size)."""
        self._check(image)
        lean = self.plain_norm and cpu_blocks.apply(image, self.out.conv.conv.weight)
        encode, join = (cpu_blocks.encode, cpu_blocks.join) if lean else (_encode, _join)
        maps = self._swin_maps(image)
        x = encode(self.encoder10, maps[4])
        x = join(self.decoder5, x, maps[3])
        x = join(self.decoder4, x, encode(self.encoder4, maps[2]))
        x = join(self.decoder3, x, encode(self.encoder3, maps[1]))
        x = join(self.decoder2, x, encode(self.encoder2, maps[0]))
        x = join(self.decoder1, x, encode(self.encoder1, image))
        return cpu_blocks.convolve(self.out.conv.conv, x) if lean else self.out(x)

    def _swin_maps(self, image: Tensor) -> list[Tensor]:
        """The patches and the results of the four stages, as (B, C, ...) in channels-last memory."""
        swin: Any = self.swinViT
        x = swin.pos_drop(swin.patch_embed(image))
        maps = [self._normalised(x)]
        for i in range(1, 5):
            if swin.use_v2:
                x = getattr(swin, f"layers{i}c")[0](x.contiguous())
            x = _stage(getattr(swin, f"layers{i}")[0], x)
            maps.append(self._normalised(x))
        return maps

    def _normalised(self, x: Tensor) -> Tensor:
        if not self.normalize:
            return x
        return F.layer_norm(x.movedim(1, -1), [int(x.shape[1])]).movedim(-1, 1)

    def _check(self, image: Tensor) -> None:
        axes = ("D", "H", "W")[-self.spatial_dims :]
        if image.ndim != 2 + self.spatial_dims or image.shape[1] != self.in_channels:
            raise ValueError(
                f"SwinUNETR needs an image (B, {self.in_channels}, {', '.join(axes)}), "
                f"not {tuple(image.shape)}"
            )
        if any(n % 32 for n in image.shape[2:]) or max(image.shape[2:]) < 64:
            raise ValueError(
                f"image edges must be multiples of 32, one of them 64 or more, so that the deepest map has "
                f"voxels to normalise over, not {tuple(image.shape[2:])}: pad the image"
            )

    def load_published(
        self, source: str | Path | Mapping[str, Any], patch_merging: PatchMergingName = "legacy"
    ) -> LoadReport:
        """Fill the network from a published checkpoint, every entry or none.

        Parameters
        ----------
        source
            A file or what it holds.
        patch_merging
            The merging under which it was trained, which the file does not tell: ``"legacy"`` for all that
            was published for MONAI up to 1.4 (BTCV, BraTS21, the model zoo).

        Raises
        ------
        WeightsError
            If the network uses another patch merging, the file is unsafe to open, or an entry is missing,
            left over or of another shape.
        """
        self._check_merging(patch_merging)
        return load_strictly(self, read_checkpoint(source), self._completed)

    def load_encoder(
        self, source: str | Path | Mapping[str, Any], patch_merging: PatchMergingName = "legacy"
    ) -> LoadReport:
        """Fill the transformer encoder from self-supervised weights; the rest is unchanged.

        Parameters
        ----------
        source
            A file (``model_swinvit.pt``, ``ssl_pretrained_weights.pth``) or what it holds. The heads of
            the self-supervised task in it are left over and named in the report.
        patch_merging
            The merging under which it was trained.

        Raises
        ------
        WeightsError
            If the network uses another patch merging, the file is unsafe to open, or an entry of the encoder
            is missing, left over or of another shape.
        """
        self._check_merging(patch_merging)
        published = read_checkpoint(source)
        names = {name: _encoder_name(name) for name in published}
        encoder = {f"swinViT.{ours}": published[name] for name, ours in names.items() if ours is not None}
        completed = self._completed(encoder)
        load_strictly(
            self.swinViT,
            {n.removeprefix("swinViT."): value for n, value in completed.items()},
            dict,
        )
        return LoadReport(len(encoder), tuple(name for name, ours in names.items() if ours is None))

    def _check_merging(self, trained_under: str) -> None:
        if trained_under != self.patch_merging:
            raise WeightsError(
                f"weights trained under {trained_under!r} patch merging give other numbers in this network: "
                f"build it with patch_merging={trained_under!r} (published weights are 'legacy'), "
                f"or say patch_merging={self.patch_merging!r} if that is what they were trained under"
            )

    def _completed(self, published: StateDict) -> StateDict:
        """Published entries under MONAI's present names, with the position indices, which never vary."""
        renamed = {
            re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", name): value for name, value in published.items()
        }
        indices = {
            name: value for name, value in self.state_dict().items() if name.endswith("position_index")
        }
        return indices | renamed


def _encoder_name(name: str) -> str | None:
    """A self-supervised entry's name inside the encoder, or None if it belongs to a head."""
    name = re.sub(r"^(swinViT|swin_vit|encoder)\.", "", name)
    # One release nests every stage once more.
    name = re.sub(r"^(layers\d)\.0\.0\.", r"\1.0.", name)
    return name if name.startswith(("patch_embed.", "layers")) else None


def _stage(layer: Any, x: Tensor) -> Tensor:
    """Blocks and patch merging of one stage, channels first to channels first."""
    x = x.movedim(1, -1)
    for block in layer.blocks:
        if layer.use_checkpoint and torch.is_grad_enabled():
            x = checkpoint(_block, block, x, use_reentrant=False)
        else:
            x = _block(block, x)
    return layer.downsample(x).movedim(-1, 1)


def _block(block: Any, x: Tensor) -> Tensor:
    """Windowed attention and perceptron, each normalised before and added to its input; (B, *grid, C)."""
    x = x + block.drop_path(_windowed_attention(block, block.norm1(x)))
    return x + block.drop_path(block.mlp(block.norm2(x)))


class Run(NamedTuple):
    """A run of `number` neighbouring segments on one axis, each `length` voxels long, from `start`.

    A segment is what one attention window holds of the image: with its share of the padding it would have
    `reach` voxels, and its first one stands at `offset` in the window.
    """

    start: int
    number: int
    length: int
    reach: int
    offset: int


def _runs(size: int, window: int, shift: int) -> list[Run]:
    """The segments of an axis of `size` voxels, padded to whole windows and shifted cyclically."""
    padded = size + -size % window
    # The window across the seam holds both ends of the axis, which do not see each other: two segments.
    cuts = [*([0] if shift else []), *range(shift, padded, window), padded]
    runs: list[Run] = []
    for start, stop in itertools.pairwise(cuts):
        length = min(stop, size) - start
        run = Run(start, 1, length, stop - start, window - shift if start < shift else 0)
        if runs and runs[-1][2:] == run[2:]:
            runs[-1] = runs[-1]._replace(number=runs[-1].number + 1)
        elif length > 0:
            runs.append(run)
    return runs


def _windowed_attention(block: Any, x: Tensor) -> Tensor:
    """Attention within shifted windows of a zero-padded grid, (B, *grid, C) to the same shape.

    Windows with the same layout are processed together, without padding and masks: parts that a mask would
    separate are processed separately, and padding, whose keys and values are the bias of their projection,
    becomes a single key. These are many small operations, so a device and an export use one call with a mask.
    """
    attention, grid = block.attn, [int(n) for n in x.shape[1:-1]]
    window, shift = monai_swin.get_window_size(grid, block.window_size, block.shift_size)
    if on_device(x) or torch.compiler.is_exporting():
        return _masked_attention(attention, x, window, shift)
    qkv = attention.qkv(x)
    attended = torch.empty_like(qkv[..., : x.shape[-1]])
    for runs in itertools.product(*map(_runs, grid, window, shift)):
        box = (slice(None), *(slice(r.start, r.start + r.number * r.length) for r in runs))
        target = _segments(attended[box], runs)
        target.copy_(_attend(attention, _segments(qkv[box], runs), *_biases(attention, window, runs)))
    return attention.proj_drop(attention.proj(attended))


def _masked_attention(attention: Any, x: Tensor, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """All windows in one call, positions and mask in one tensor added to the scores."""
    grid = [int(n) for n in x.shape[1:-1]]
    axes, sizes = list(range(1, len(grid) + 1)), [n + -n % w for n, w in zip(grid, window, strict=True)]
    widths = [
        width for n, size in zip(reversed(grid), reversed(sizes), strict=True) for width in (0, size - n)
    ]
    qkv = attention.qkv(F.pad(x, (0, 0, *widths)))
    if any(shift):
        qkv = qkv.roll([-s for s in shift], axes)
    runs = [Run(0, size // w, w, w, 0) for size, w in zip(sizes, window, strict=True)]
    windows = _segments(qkv, runs)
    voxels, heads = math.prod(window), attention.num_heads
    tokens = windows.reshape(x.shape[0], -1, voxels, 3, heads, x.shape[-1] // heads).permute(3, 0, 1, 4, 2, 5)
    bias = _bias(attention, attention.relative_position_index[:voxels, :voxels])
    if any(shift):
        # Each window has its own mask, the same for all images: windows share an axis with the heads.
        # An export has no values that could be kept.
        made = _parts.__wrapped__ if torch.compiler.is_exporting() else _parts
        parts = made(tuple(sizes), tuple(window), tuple(shift), x.device)
        apart = parts[:, None, :, None] != parts[:, None, None, :]
        bias = torch.where(apart, bias - 100, bias).flatten(0, 1)[None]
        query, key, value = tokens.flatten(2, 3)
    else:
        query, key, value = tokens.flatten(1, 2)
    dropout = attention.attn_drop.p if attention.training else 0.0
    attended = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout)
    attended = attended.reshape(tokens.shape[1:]).transpose(2, 3).reshape(*windows.shape[:-1], -1)
    n = len(grid)
    order = [axis for pair in zip(range(1, n + 1), range(n + 1, 2 * n + 1), strict=True) for axis in pair]
    joined = attended.permute(0, *order, 2 * n + 1).reshape(x.shape[0], *sizes, -1)
    if any(shift):
        joined = joined.roll(list(shift), axes)
    return attention.proj_drop(attention.proj(joined[(slice(None), *(slice(n) for n in grid))]))


# Never emptied, because recorded launches read these tensors in place.
@cache
def _parts(
    sizes: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
) -> Tensor:
    """(windows, voxels of a window): which part of the shifted grid a voxel is of; parts are kept apart."""
    part = torch.zeros(sizes, dtype=torch.uint8)
    for axis, (size, w, s) in enumerate(zip(sizes, window, shift, strict=True)):
        place = torch.arange(size)
        along = (place >= size - w).byte() + ((place >= size - s) & (s > 0)).byte()
        part = 3 * part + along.reshape([-1 if a == axis else 1 for a in range(len(sizes))])
    runs = [Run(0, size // w, w, w, 0) for size, w in zip(sizes, window, strict=True)]
    return _segments(part[None, ..., None], runs).reshape(-1, math.prod(window)).to(device)


def _segments(x: Tensor, runs: Sequence[Run]) -> Tensor:
    """A view of (B, *box, C) as (B, *segments along each axis, *voxels of a segment, C)."""
    for axis, run in reversed(list(enumerate(runs, start=1))):
        x = x.unflatten(axis, (run.number, run.length))
    inner = [2 * i + 2 for i in range(len(runs))]
    return x.permute(0, *(i - 1 for i in inner), *inner, x.ndim - 1)


def _biases(attention: Any, window: Sequence[int], runs: Sequence[Run]) -> tuple[Tensor, Tensor | None]:
    """Position terms for the scores (1, heads, n, n) of a segment, and for those of its padding, if any."""
    # A window smaller than the table's takes the first rows of the index, whatever their positions.
    voxels = math.prod(window)
    index = attention.relative_position_index[:voxels, :voxels].reshape(*window, *window)
    own = tuple(slice(r.offset, r.offset + r.length) for r in runs)
    bias = _bias(attention, index[own + own])
    if all(r.reach == r.length for r in runs):
        return bias, None
    reach = tuple(slice(r.offset, r.offset + r.reach) for r in runs)
    image = torch.zeros([r.reach for r in runs], dtype=torch.bool, device=index.device)
    image[tuple(slice(r.length) for r in runs)] = True
    # Equal keys add their exponentials.
    padding = _bias(attention, index[own + reach]).masked_fill(image.flatten(), -math.inf)
    return bias, padding.logsumexp(-1, keepdim=True)


def _bias(attention: Any, index: Tensor) -> Tensor:
    """Rows of the table for an index (*queries, *keys), as (1, heads, queries, keys)."""
    half = index.ndim // 2
    pairs = index.flatten(half).flatten(0, half - 1)
    return F.embedding(pairs, attention.relative_position_bias_table).movedim(-1, 0)[None].contiguous()


def _attend(attention: Any, qkv: Tensor, bias: Tensor, padding_bias: Tensor | None) -> Tensor:
    """Multi-head attention inside segments (B, *segments, *voxels, 3C) to (..., C), before projection."""
    tokens = qkv.reshape(
        -1, bias.shape[-1], 3, attention.num_heads, qkv.shape[-1] // 3 // attention.num_heads
    )
    query, key, value = tokens.permute(2, 0, 3, 1, 4).unbind(0)
    if padding_bias is not None:
        bias = torch.cat([bias, padding_bias], dim=-1)
        key, value = (
            torch.cat([x, _padding_token(attention, i, x)], dim=2) for i, x in ((1, key), (2, value))
        )
    dropout = attention.attn_drop.p if attention.training else 0.0
    attended = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout)
    return attended.transpose(1, 2).reshape(*qkv.shape[:-1], -1)


def _padding_token(attention: Any, part: int, like: Tensor) -> Tensor:
    """The query, key or value (`part` 0, 1, 2) of a zero voxel, (B, heads, 1, channels of a head)."""
    if attention.qkv.bias is None:
        return torch.zeros_like(like[:, :, :1])
    token = attention.qkv.bias.to(like.dtype).view(3, 1, attention.num_heads, 1, -1)[part]
    return token.expand(like.shape[0], -1, -1, -1)


def _encode(block: Any, x: Tensor) -> Tensor:
    return block(x)


def _join(block: Any, x: Tensor, skip: Tensor) -> Tensor:
    return block(x, skip)
