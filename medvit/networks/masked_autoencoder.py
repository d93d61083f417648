"""Masked autoencoders on plain transformers: MAE for X-rays, in 2D and 3D, and Uni4Eye's two entrances.

References
----------
He et al. 2022, "Masked autoencoders are scalable vision learners", CVPR.
Xiao et al. 2023, "Delving into masked autoencoders for multi-label thorax disease classification", WACV.
Cai et al. 2022, "Uni4Eye: unified 2D and 3D self-supervised pre-training via masked image modeling
transformer for ophthalmic image classification", MICCAI.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.errors import WeightsError
from medvit.networks.layers.vit import BLOCK_NAMES, TransformerBlock
from medvit.networks.published import (
    LoadReport,
    NameRule,
    PublishedNetwork,
    StateDict,
    load_strictly,
    read_checkpoint,
    renamed,
)

NORM_EPS = 1e-6


class MaskedPrediction(NamedTuple):
    """The output of a masked autoencoder for a batch.

    Parameters
    ----------
    loss
        Mean squared error over the removed tokens.
    prediction
        Every token, also those that were kept: (B, tokens, voxels of a patch * channels), channels fastest.
    mask
        (B, tokens), 1 where a token was removed.
    """

    loss: Tensor
    prediction: Tensor
    mask: Tensor


def position_table(dim: int, grid: Sequence[int]) -> Tensor:
    """Fixed sine-cosine table of a grid of tokens, (1 + tokens, dim); the row of the class token is zero.

    In 2D the first half of the channels encodes the column and the second one the row, as in MAE; in 3D a
    third each encodes the last, the middle and the first axis.

    Raises
    ------
    ValueError
        If `dim` is not a multiple of twice the number of axes.
    """
    axes = len(grid)
    if dim % (2 * axes):
        raise ValueError(f"a table of {axes} axes needs a width that is a multiple of {2 * axes}, not {dim}")
    quarter = dim // (2 * axes)
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid)).reshape(-1, axes)
    parts = []
    for axis in reversed(range(axes)):
        angles = places[:, axis, None] * frequencies
        parts += [angles.sin(), angles.cos()]
    table = torch.cat(parts, dim=1)
    return torch.cat([torch.zeros(1, dim), table.float()])


class Entrance(nn.Module):
    """Conversion of images of one kind to tokens, and of tokens back to their patches.

    Parameters
    ----------
    in_channels
        Channels of the image.
    img_size, patch_size
        Size of the image and of a patch along each axis, in pixels; patches divide the image evenly.
    dim, decoder_dim
        Width of the encoder and of the decoder; without a decoder there is no readout.
    positions
        Whether the tables encode position; those of Uni4Eye's volumes are zero.
    """

    def __init__(
        self,
        in_channels: int,
        img_size: Sequence[int],
        patch_size: Sequence[int],
        dim: int,
        decoder_dim: int | None = None,
        *,
        positions: bool = True,
    ) -> None:
        super().__init__()
        if any(n % p for n, p in zip(img_size, patch_size, strict=True)):
            raise ValueError(f"patches of {tuple(patch_size)} do not divide images of {tuple(img_size)}")
        self.img_size, self.patch_size = tuple(img_size), tuple(patch_size)
        self.grid = tuple(n // p for n, p in zip(img_size, patch_size, strict=True))
        convolution = nn.Conv2d if len(self.grid) == 2 else nn.Conv3d
        self.proj = convolution(in_channels, dim, self.patch_size, self.patch_size)  # type: ignore[arg-type]
        self.position = self._table(dim, positions)
        nn.init.xavier_uniform_(self.proj.weight.view(dim, -1))
        if decoder_dim is not None:
            self.decoder_position = self._table(decoder_dim, positions)
            self.readout = nn.Linear(decoder_dim, math.prod(self.patch_size) * in_channels)

    def _table(self, dim: int, positions: bool) -> nn.Parameter:
        rows = 1 + math.prod(self.grid)
        table = position_table(dim, self.grid) if positions else torch.zeros(rows, dim)
        return nn.Parameter(table[None], requires_grad=False)

    def tokens(self, image: Tensor) -> Tensor:
        """(B, C, *size) to (B, tokens, dim), with their positions.

        Raises
        ------
        ValueError
            If the image has another size.
        """
        if tuple(image.shape[2:]) != self.img_size:
            raise ValueError(f"the network takes images of {self.img_size}, not {tuple(image.shape[2:])}")
        return self.proj(image).flatten(2).transpose(1, 2) + self.position[:, 1:]

    def patches(self, image: Tensor) -> Tensor:
        """(B, C, *size) to (B, tokens, voxels of a patch * C), channels fastest."""
        axes = len(self.grid)
        cut = itertools.chain.from_iterable(zip(self.grid, self.patch_size, strict=True))
        x = image.reshape(*image.shape[:2], *cut)
        order = [0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1]
        return x.permute(order).flatten(1, axes).flatten(2)

    def image_of(self, patches: Tensor) -> Tensor:
        """(B, tokens, voxels of a patch * C), as `patches` gives them, to (B, C, *size)."""
        axes = len(self.grid)
        x = patches.reshape(len(patches), *self.grid, *self.patch_size, -1)
        order = [0, 2 * axes + 1, *(n for axis in range(1, axes + 1) for n in (axis, axis + axes))]
        return x.permute(order).reshape(len(x), -1, *self.img_size)


def draw_mask(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """The choice of the tokens that are kept: those of the smallest numbers.

    Parameters
    ----------
    noise
        A number for each token, (B, tokens); only its ranks matter.
    mask_ratio
        Share of the tokens that are removed; ``int(tokens * (1 - mask_ratio))`` are kept.

    Returns
    -------
    kept
        Numbers of the kept tokens, (B, kept).
    rank
        Rank of each token, (B, tokens), by which a shuffled sequence is put back in order.
    """
    kept = int(noise.shape[1] * (1 - mask_ratio))
    order = noise.argsort(dim=1)
    return order[:, :kept], order.argsort(dim=1)


AUTOENCODER_NAMES: list[NameRule] = [
    *BLOCK_NAMES,
    (r"^patch_embed\.proj\.", "entrances.0.proj."),
    (r"^pos_embed$", "entrances.0.position"),
    (r"^decoder_pos_embed$", "entrances.0.decoder_position"),
    (r"^decoder_pred\.", "entrances.0.readout."),
]
_CLASSIFIER_NAMES: list[NameRule] = [
    *BLOCK_NAMES,
    (r"^patch_embed\.proj\.", "entrance.proj."),
    (r"^pos_embed$", "entrance.position"),
    (r"^fc_norm\.", "norm."),
]


class _Transformer(PublishedNetwork):
    """The encoder that classifier and autoencoders share: class token, blocks and a norm."""

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_ratio: float, qkv_bias: bool) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = _blocks(dim, depth, num_heads, mlp_ratio, qkv_bias)
        nn.init.normal_(self.cls_token, std=0.02)

    def _encoded(self, tokens: Tensor, position: Tensor) -> Tensor:
        first = (self.cls_token + position[:, :1]).expand(len(tokens), -1, -1)
        return self.blocks(torch.cat([first, tokens], dim=1))


def _blocks(dim: int, depth: int, num_heads: int, mlp_ratio: float, qkv_bias: bool = True) -> nn.Sequential:
    hidden = int(dim * mlp_ratio)
    return nn.Sequential(
        *(
            TransformerBlock(dim, num_heads, hidden, qkv_bias=qkv_bias, norm_eps=NORM_EPS)
            for _ in range(depth)
        )
    )


def _init_linear(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MaskedAutoencoder(_Transformer):
    """Removes most patches of an image, encodes the others and predicts the removed ones.

    Parameters
    ----------
    entrances
        One for each kind of image, identified by its number of axes: image, volume or both, which then share
        the transformer (Uni4Eye).
    dim, depth, num_heads
        Width, blocks and heads of the encoder.
    decoder_dim, decoder_depth, decoder_num_heads
        Width, blocks and heads of the decoder.
    mlp_ratio
        Width of the perceptrons over that of the tokens.
    normalise_targets
        Whether each patch is predicted without its mean and divided by its standard deviation.
    """

    def __init__(
        self,
        entrances: Sequence[Entrance],
        dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        decoder_dim: int = 512,
        decoder_depth: int = 2,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        normalise_targets: bool = False,
    ) -> None:
        super().__init__(dim, depth, num_heads, mlp_ratio, qkv_bias=True)
        self.normalise_targets = normalise_targets
        self.entrances = nn.ModuleList(entrances)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_blocks = _blocks(decoder_dim, decoder_depth, decoder_num_heads, mlp_ratio)
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=NORM_EPS)
        nn.init.normal_(self.mask_token, std=0.02)
        _init_linear(self)

    @classmethod
    def of_images(
        cls,
        in_channels: int = 3,
        img_size: Sequence[int] = (224, 224),
        patch_size: Sequence[int] = (16, 16),
        dim: int = 384,
        decoder_dim: int = 512,
        **sizes: Any,
    ) -> MaskedAutoencoder:
        """An autoencoder of one kind of image, in 2D or 3D."""
        entrance = Entrance(in_channels, img_size, patch_size, dim, decoder_dim)
        return cls([entrance], dim, decoder_dim=decoder_dim, **sizes)

    def entrance_of(self, image: Tensor) -> Entrance:
        """The entrance for images with this number of axes.

        Raises
        ------
        ValueError
            If the network has no entrance for such images.
        """
        axes = image.ndim - 2
        for entrance in self.entrances:
            assert isinstance(entrance, Entrance)
            if len(entrance.grid) == axes:
                return entrance
        raise ValueError(f"the network has no entrance for images of {axes} axes")

    def forward(
        self, image: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None
    ) -> MaskedPrediction:
        """Mask, encode, decode and compare.

        Parameters
        ----------
        image
            (B, C, *size).
        mask_ratio
            Share of the patches that are removed.
        noise
            A number for each token (B, tokens); tokens with the smallest are kept. Random by default.
        """
        entrance = self.entrance_of(image)
        decoded, mask = self._decoder_input(image, entrance, mask_ratio, noise)
        prediction = self._decoded(decoded, entrance)
        return MaskedPrediction(self._loss(image, prediction, mask, entrance), prediction, mask)

    def _decoder_input(
        self, image: Tensor, entrance: Entrance, mask_ratio: float, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        tokens = entrance.tokens(image)
        if noise is None:
            noise = torch.rand(tokens.shape[:2], device=tokens.device)
        kept, rank = draw_mask(noise, mask_ratio)
        seen = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        x = self.decoder_embed(self.norm(self._encoded(seen, entrance.position)))
        lack = self.mask_token.expand(len(x), tokens.shape[1] - kept.shape[1], -1)
        ordered = torch.cat([x[:, 1:], lack], dim=1).gather(1, rank[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], ordered], dim=1) + entrance.decoder_position
        return x, (rank >= kept.shape[1]).to(image.dtype)

    def _decoded(self, x: Tensor, entrance: Entrance) -> Tensor:
        return entrance.readout(self.decoder_norm(self.decoder_blocks(x)))[:, 1:]

    def _loss(self, image: Tensor, prediction: Tensor, mask: Tensor, entrance: Entrance) -> Tensor:
        target = entrance.patches(image)
        if self.normalise_targets:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        return ((prediction - target).square().mean(dim=-1) * mask).sum() / mask.sum()

    def _own_entries(self, published: StateDict) -> StateDict:
        return renamed(published, AUTOENCODER_NAMES)


class ViTClassifier(_Transformer):
    """Multi-label classifier: the fine-tuned form of the autoencoder's encoder.

    Parameters
    ----------
    in_channels, img_size, patch_size
        Channels of the image, and its size and that of a patch in pixels, in 2D or 3D.
    num_classes
        Labels; each has its own sigmoid.
    dim, depth, num_heads, mlp_ratio, qkv_bias
        Settings of the transformer.
    global_pool
        Whether the mean of the patches is read out, otherwise the class token.
    """

    def __init__(
        self,
        in_channels: int = 3,
        img_size: Sequence[int] = (224, 224),
        patch_size: Sequence[int] = (16, 16),
        num_classes: int = 14,
        dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        global_pool: bool = True,
    ) -> None:
        super().__init__(dim, depth, num_heads, mlp_ratio, qkv_bias)
        self.global_pool = global_pool
        self.entrance = Entrance(in_channels, img_size, patch_size, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim, num_classes)
        self.entrance.position.requires_grad_(True)
        _init_linear(self.blocks)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, C, *size) to logits (B, classes)."""
        x = self._encoded(self.entrance.tokens(image), self.entrance.position)
        pooled = self.norm(x[:, 1:].mean(dim=1)) if self.global_pool else self.norm(x)[:, 0]
        return self.head(pooled)

    def _own_entries(self, published: StateDict) -> StateDict:
        return renamed(published, _CLASSIFIER_NAMES)

    def load_encoder(self, source: str | Path | Mapping[str, Any]) -> LoadReport:
        """Load the encoder of a pre-trained autoencoder; the readout stays as it is.

        A position table of another grid is resized bicubically; if any other entry does not fit, nothing is
        loaded.

        Raises
        ------
        WeightsError
            If an entry is missing or of the wrong shape.
        """
        state = read_checkpoint(source)
        left = tuple(n for n in state if n.startswith(("decoder_", "mask_token", "norm.")))
        encoder = {name: value for name, value in state.items() if name not in left}
        own = self.state_dict()
        given = self._own_entries(encoder)
        if "entrance.position" in given:
            given["entrance.position"] = resized_table(given["entrance.position"], self.entrance.grid)
        new = {name: own[name] for name in own if name.startswith(("norm.", "head."))}
        report = load_strictly(self, new | given, dict)
        return LoadReport(report.matched - len(new), left)


def resized_table(table: Tensor, grid: Sequence[int]) -> Tensor:
    """A square position table (1, 1 + tokens, C) on another grid; the class token's row is kept."""
    if table.shape[1] == 1 + math.prod(grid):
        return table
    side = math.isqrt(table.shape[1] - 1)
    if len(grid) != 2 or side**2 != table.shape[1] - 1:
        raise WeightsError(
            f"the position table of {table.shape[1] - 1} tokens does not fit a grid of {tuple(grid)}"
        )
    return torch.cat([table[:, :1], on_grid(table[:, 1:], (side, side), grid)], dim=1)


def on_grid(table: Tensor, before: Sequence[int], grid: Sequence[int]) -> Tensor:
    """The position table (1, tokens, C) of one grid of two or three axes, interpolated to another."""
    tokens = table.reshape(1, *before, -1).movedim(-1, 1)
    mode = "bicubic" if len(grid) == 2 else "trilinear"
    return F.interpolate(tokens, size=tuple(grid), mode=mode, align_corners=False).flatten(2).mT
