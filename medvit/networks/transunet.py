"""TransUNet: a ResNet and a plain ViT encode a slice, a cascaded up-sampler decodes it (Chen et al. 2021)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.errors import WeightsError
from medvit.networks.layers.vit import TransformerBlock
from medvit.networks.published import LoadReport, PublishedNetwork, StateDict, load_strictly, renamed

PATCH = 16  # the up-sampler doubles four times, so no other patch size gives the size of the image
NORM_EPS = 1e-6


class StandardisedConv(nn.Conv2d):
    """A convolution without bias whose kernel is standardised, filter by filter, before it is used."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        filters = self.weight.flatten(1)
        standard = F.layer_norm(filters, [filters.shape[1]], eps=1e-5).view_as(self.weight)
        return F.conv2d(x, standard, None, self.stride, self.padding)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 standardised convolutions with GroupNorm; the shortcut is an identity or a projection."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.conv1 = StandardisedConv(in_channels, width, 1)
        self.gn1 = nn.GroupNorm(32, width, eps=NORM_EPS)
        self.conv2 = StandardisedConv(width, width, 3, stride)
        self.gn2 = nn.GroupNorm(32, width, eps=NORM_EPS)
        self.conv3 = StandardisedConv(width, out_channels, 1)
        self.gn3 = nn.GroupNorm(32, out_channels, eps=NORM_EPS)
        self.downsample: nn.Module = nn.Identity()
        self.gn_proj: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = StandardisedConv(in_channels, out_channels, 1, stride)
            # As published: one group per channel, and a different epsilon from the norms above.
            self.gn_proj = nn.GroupNorm(out_channels, out_channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        y = torch.relu(self.gn1(self.conv1(x)))
        y = torch.relu(self.gn2(self.conv2(y)))
        return torch.relu(self.gn_proj(self.downsample(x)) + self.gn3(self.conv3(y)))


class ResNet(nn.Module):
    """The three ResNet stages before the tokens, and the maps that the decoder joins."""

    def __init__(self, in_channels: int, width: int, depths: Sequence[int]) -> None:
        super().__init__()
        self.conv = StandardisedConv(in_channels, width, 7, 2)
        self.gn = nn.GroupNorm(32, width, eps=NORM_EPS)
        widths = [width, *(4 * width * 2**i for i in range(len(depths)))]
        self.stages = nn.ModuleList(
            nn.Sequential(
                Bottleneck(widths[i], widths[i + 1], stride=1 if i == 0 else 2),
                *(Bottleneck(widths[i + 1], widths[i + 1], stride=1) for _ in range(depth - 1)),
            )
            for i, depth in enumerate(depths)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, in, H, W) to the map at 1/16 and the skips at 1/8, 1/4, 1/2."""
        root = torch.relu(self.gn(self.conv(image)))
        # An even map pooled without padding is one short of half; only the skip is filled up with zeros.
        fine = self.stages[0](F.max_pool2d(root, 3, 2))
        middle = self.stages[1](fine)
        return self.stages[2](middle), [middle, F.pad(fine, (0, 1, 0, 1)), root]


class ConvNormReLU(nn.Sequential):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class UpBlock(nn.Module):
    """Bilinear doubling, the skip joined behind, two convolutions (the paper's cascaded up-sampler)."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormReLU(in_channels + skip_channels, out_channels)
        self.conv2 = ConvNormReLU(out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, in, H, W) and (B, skip, 2H, 2W) to (B, out, 2H, 2W)."""
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        return self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], dim=1)))


class TransUNet(PublishedNetwork):
    """TransUNet for slices: hybrid (R50-ViT-B_16, the default) or pure ViT (``resnet_depths=None``).

    Parameters
    ----------
    in_channels
        Image channels. One is repeated to three, as published; three are used unchanged; any other number
        makes a first layer of that width (no published weights).
    out_channels
        Number of classes; the output holds their logits.
    img_size
        Height and width of the slices, multiples of 16; one number means a square.
    hidden_size, mlp_dim, num_heads, num_layers
        ViT: channels, width of the perceptron, heads, blocks. ViT-L_16 is 1024, 4096, 16, 24.
    resnet_depths
        Bottleneck units in the three ResNet stages, or None for the pure ViT.
    resnet_width
        Channels of the ResNet's root, a multiple of 32 (64 is width factor 1 in the authors' terms).
    decoder_channels
        Channels after each doubling.
    n_skip
        Number of ResNet maps that the decoder joins, coarsest first; None means all three, or none for the
        pure ViT, which has no such maps.
    dropout
        Rate after the position table and in the perceptrons.

    Notes
    -----
    Input (B, in_channels, *img_size), output (B, out_channels, *img_size).

    Against the published code: slices need not be square, the pure ViT builds without being told that it
    has no skips, and building one network does not change the configuration of the next. The pool that
    leaves the quarter-resolution map one pixel short, filled with zeros for the decoder alone, and the
    differing norm epsilons are as published. For volumes see `medvit.inference.segment_slices`.

    References
    ----------
    Chen et al.: TransUNet, transformers make strong encoders for medical image segmentation, 2021,
    arXiv 2102.04306.

    Examples
    --------
    >>> network = TransUNet(1, 4, img_size=64, hidden_size=96, mlp_dim=160, num_heads=4, num_layers=1)
    >>> network(torch.zeros(1, 1, 64, 64)).shape
    torch.Size([1, 4, 64, 64])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 9,
        img_size: int | Sequence[int] = 224,
        *,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
        num_layers: int = 12,
        resnet_depths: Sequence[int] | None = (3, 4, 9),
        resnet_width: int = 64,
        decoder_channels: Sequence[int] = (256, 128, 64, 16),
        n_skip: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.n_skip = (0 if resnet_depths is None else 3) if n_skip is None else n_skip
        _check_configuration(self.img_size, resnet_depths, resnet_width, decoder_channels, self.n_skip)
        stem_channels = 3 if in_channels == 1 else in_channels
        self.resnet: ResNet | None = None
        self.embed = nn.Conv2d(stem_channels, hidden_size, PATCH, PATCH)
        if resnet_depths is not None:
            self.resnet = ResNet(stem_channels, resnet_width, resnet_depths)
            self.embed = nn.Conv2d(16 * resnet_width, hidden_size, 1)
        self.grid = (self.img_size[0] // PATCH, self.img_size[1] // PATCH)
        self.position = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], hidden_size))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(hidden_size, num_heads, mlp_dim, norm_eps=NORM_EPS, mlp_dropout=dropout)
                for _ in range(num_layers)
            )
        )
        self.norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.widen = ConvNormReLU(hidden_size, 512)
        skips = [8 * resnet_width, 4 * resnet_width, resnet_width][: self.n_skip]
        skips += [0] * (4 - len(skips))
        widths = (512, *decoder_channels)
        self.ups = nn.ModuleList(UpBlock(widths[i], skips[i], widths[i + 1]) for i in range(4))
        self.readout = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        # As the authors: perceptrons xavier-uniform with biases near zero, the rest torch's default.
        for name, layer in self.blocks.named_modules():
            if ".mlp." in name and isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, in_channels, *img_size) to logits (B, out_channels, *img_size)."""
        if not torch.jit.is_scripting():
            self._check(image)
        x = image.expand(-1, 3, -1, -1) if self.in_channels == 1 else image
        maps: list[Tensor] = []
        if self.resnet is not None:
            x, maps = self.resnet(x)
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = self.norm(self.blocks(self.dropout(tokens + self.position)))
        x = self.widen(tokens.transpose(1, 2).unflatten(2, self.grid))
        for i, up in enumerate(self.ups):
            x = up(x, maps[i] if i < self.n_skip else None)
        return self.readout(x)

    def _check(self, image: Tensor) -> None:
        if image.ndim != 4 or image.shape[1:] != (self.in_channels, *self.img_size):
            raise ValueError(
                f"this TransUNet needs an image (B, {self.in_channels}, {self.img_size[0]}, "
                f"{self.img_size[1]}), not {tuple(image.shape)}: resize it or build with its img_size"
            )

    def _own_entries(self, published: StateDict) -> StateDict:
        return rename_published(published)

    def load_npz(self, source: str | Path | Mapping[str, np.ndarray]) -> LoadReport:
        """Fill the encoder from ImageNet-21k weights in the JAX layout; the decoder is unchanged.

        The position table is resized to this network's grid: its class row is dropped and the square of
        the rest interpolated linearly between corners.

        Parameters
        ----------
        source
            ``R50+ViT-B_16.npz`` for the hybrid, ``ViT-B_16.npz`` for the pure ViT, or its arrays.

        Raises
        ------
        WeightsError
            If the file is not an npz of plain arrays, or an entry of the encoder is missing, left over or of
            another shape.
        """
        published = read_npz(source) if isinstance(source, str | Path) else dict(source)
        encoder = rename_npz(published, self.grid)
        kept = ("widen.", "ups.", "readout.")
        decoder = {name: value for name, value in self.state_dict().items() if name.startswith(kept)}
        load_strictly(self, {**decoder, **encoder}, dict)
        return LoadReport(len(encoder), tuple(name for name in published if name.startswith(_NPZ_UNUSED)))


def _check_configuration(
    img_size: tuple[int, ...],
    resnet_depths: Sequence[int] | None,
    resnet_width: int,
    decoder_channels: Sequence[int],
    n_skip: int,
) -> None:
    if len(img_size) != 2 or any(n % PATCH or n <= 0 for n in img_size):
        raise ValueError(f"img_size must be one or two multiples of {PATCH}, not {img_size}")
    if len(decoder_channels) != 4:
        raise ValueError(f"decoder_channels must name four widths, not {tuple(decoder_channels)}")
    if resnet_depths is None:
        if n_skip:
            raise ValueError("the pure ViT has no maps to skip to the decoder: leave n_skip at 0")
        return
    if not 0 <= n_skip <= 3:
        raise ValueError(f"n_skip must be between 0 and 3, not {n_skip}")
    if len(resnet_depths) != 3 or min(resnet_depths) < 1 or resnet_width % 32:
        raise ValueError(
            f"the ResNet needs three stages and a width that is a multiple of 32, not "
            f"{tuple(resnet_depths)} and {resnet_width}"
        )


_PUBLISHED_NAMES = (
    (r"^transformer\.embeddings\.hybrid_model\.root\.", "resnet."),
    (
        r"^transformer\.embeddings\.hybrid_model\.body\.block(\d)\.unit(\d+)\.",
        lambda m: f"resnet.stages.{int(m[1]) - 1}.{int(m[2]) - 1}.",
    ),
    (r"^transformer\.embeddings\.patch_embeddings\.", "embed."),
    (r"^transformer\.embeddings\.position_embeddings$", "position"),
    (r"^transformer\.encoder\.encoder_norm\.", "norm."),
    (r"^transformer\.encoder\.layer\.", "blocks."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.ffn_norm\.", ".norm2."),
    (r"\.ffn\.fc1\.", ".mlp.0."),
    (r"\.ffn\.fc2\.", ".mlp.3."),
    (r"\.attn\.out\.", ".attention.proj."),
    (r"\.attn\.(query|key|value)\.", r".attention.\1."),
    (r"^decoder\.conv_more\.", "widen."),
    (r"^decoder\.blocks\.", "ups."),
    (r"^segmentation_head\.0\.", "readout."),
)


def rename_published(published: StateDict) -> StateDict:
    """The authors' entries as ours: other names, and query, key and value joined into one matrix."""
    return _join_projections(renamed(published, _PUBLISHED_NAMES))


def _join_projections(state: StateDict) -> StateDict:
    """``attention.{query,key,value}`` joined to ``attention.qkv`` if all three are present."""
    joined = dict(state)
    for name in state:
        if ".attention.query." in name:
            parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            if all(part in joined for part in parts):
                joined[name.replace(".query.", ".qkv.")] = torch.cat([joined.pop(part) for part in parts])
    return joined


# The ImageNet classifier and its class token.
_NPZ_UNUSED = ("cls", "head/", "pre_logits/")

_NPZ_NAMES = (
    (r"^conv_root/kernel$", "resnet.conv.weight"),
    (r"^gn_root/", "resnet.gn/"),
    (r"^block(\d)/unit(\d+)/", lambda m: f"resnet.stages.{int(m[1]) - 1}.{int(m[2]) - 1}."),
    (r"\.conv_proj/", ".downsample/"),
    (r"^embedding/", "embed/"),
    (r"^Transformer/posembed_input/pos_embedding$", "position"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"\.LayerNorm_0/", ".norm1/"),
    (r"\.LayerNorm_2/", ".norm2/"),
    (r"\.MultiHeadDotProductAttention_1/out/", ".attention.proj/"),
    (r"\.MultiHeadDotProductAttention_1/", ".attention."),
    (r"\.MlpBlock_3/Dense_0/", ".mlp.0/"),
    (r"\.MlpBlock_3/Dense_1/", ".mlp.3/"),
    (r"/(kernel|scale)$", ".weight"),
    (r"/bias$", ".bias"),
)


def rename_npz(published: Mapping[str, np.ndarray], grid: tuple[int, int]) -> StateDict:
    """JAX arrays as our encoder's entries, the position table resized to `grid` (rows, columns) of tokens."""
    renamed = {}
    for name, array in published.items():
        if name.startswith(_NPZ_UNUSED):
            continue
        ours = name
        for pattern, replacement in _NPZ_NAMES:
            ours = re.sub(pattern, replacement, ours)
        value = torch.from_numpy(np.asarray(array))
        renamed[ours] = _resize_position(value, grid) if ours == "position" else _torch_layout(name, value)
    return _join_projections(renamed)


def _torch_layout(name: str, value: Tensor) -> Tensor:
    """One JAX array in torch's layout: outputs first."""
    if not name.endswith("/kernel"):
        return value.flatten()
    if name.endswith("/out/kernel"):
        value = value.flatten(0, 1)
    elif "/MultiHeadDotProductAttention_1/" in name:
        value = value.flatten(1)
    return value.movedim((-1, -2), (0, 1)).contiguous()


def _resize_position(table: Tensor, grid: tuple[int, int]) -> Tensor:
    rows, columns = grid
    if table.shape[1] == rows * columns:
        return table
    square = table[:, 1:]
    side = round(square.shape[1] ** 0.5)
    if side * side != square.shape[1]:
        raise WeightsError(f"the position table has {table.shape[1]} rows, not a square and a class row")
    image = square.transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(image, size=grid, mode="bilinear", align_corners=True).flatten(2).transpose(1, 2)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file.

    Raises
    ------
    WeightsError
        If the file is missing, or is not an npz of plain arrays.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:
        raise WeightsError(f"{path}: not an npz of plain arrays ({type(error).__name__})") from error
