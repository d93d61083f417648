"""RAT: a region attention transformer for image restoration (Yang et al. 2024, arXiv 2407.09268)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medvit.networks.layers.forms import on_device
from medvit.networks.published import PublishedNetwork, StateDict, rename

# Feature maps are channels-last throughout, (B, H, W, C), so that a 1x1 convolution is a linear layer.

# Tokens up to which a device compares all pairs in one call, rather than reading back the sizes of regions.
_DENSE = 4096
# Regions up to this many tokens are attended together with others of like size; larger ones alone.
_PACKED = 128


class RegionGroup(NamedTuple):
    """Regions whose attention is computed in one call.

    Attributes
    ----------
    tokens
        Flat indices (regions, length) of the regions' tokens over the whole batch.
    real
        Which of them belong to the region, (regions, length); None where all do.
    """

    tokens: Tensor
    real: Tensor | None


if TYPE_CHECKING:
    Regions = Sequence[RegionGroup] | Tensor
else:  # a network in TorchScript computes the dense form only
    Regions = Tensor


@torch.compiler.disable  # its sizes are data: compiled, every new map would be compiled anew
def group_regions(labels: Tensor) -> list[RegionGroup]:
    """Sort the tokens of a batch by region and gather regions of like size.

    Parameters
    ----------
    labels
        Region numbers (B, tokens); only their equality within an item counts.

    Returns
    -------
    list of RegionGroup
        Every token of the batch once; its index is ``item * tokens + token``.
    """
    numbers, label = torch.unique(labels, return_inverse=True)
    label = label + len(numbers) * torch.arange(len(labels), device=labels.device)[:, None]
    _, region, counts = torch.unique(label, return_inverse=True, return_counts=True)
    region = region.flatten()
    order = torch.argsort(counts[region] * len(counts) + region)
    sizes: list[int] = counts.sort().values.tolist()
    groups, start = [], 0
    for _, bucket in itertools.groupby(sizes, key=_capacity):
        lengths = list(bucket)
        stop = start + sum(lengths)
        groups.append(_group(order[start:stop], lengths))
        start = stop
    return groups


def _capacity(size: int) -> int:
    """The next power of two for a small region, so that padding stays under half; the size of a large one."""
    return size if size > _PACKED else 1 << (size - 1).bit_length()


def _group(order: Tensor, lengths: list[int]) -> RegionGroup:
    longest = lengths[-1]
    if lengths[0] == longest:
        return RegionGroup(order.reshape(len(lengths), longest), None)
    length = torch.tensor(lengths, device=order.device)[:, None]
    step = torch.arange(longest, device=order.device)
    first = length.cumsum(0) - length
    return RegionGroup(order[(first + step).clamp(max=len(order) - 1)], step < length)


class RegionAttention(nn.Module):
    """Every token attends to the tokens of its own region (region-based multi-head self-attention).

    The published form computes the scores of all token pairs and adds -1000 between regions, whose weight is
    then exactly zero in float32. Here attention is computed region by region, which gives the same function
    at ``sum(size**2) / tokens**2`` of the cost, without an array of scores.
    """

    def __init__(self, dim: int, num_heads: int, scale: float) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, scale
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, regions: Regions) -> Tensor:
        """(B, H, W, C) to the same shape.

        `regions` are groups, or labels (B, tokens) from which the dense form is computed: its graph does
        not depend on the labels, as an exported one must not.
        """
        qkv = self.qkv(x)
        if not torch.jit.is_scripting() and not isinstance(regions, Tensor):
            return self.proj(self._region_by_region(qkv.flatten(0, 2), regions).reshape(x.shape))
        assert isinstance(regions, Tensor)
        allowed = regions[:, None, :, None] == regions[:, None, None, :]
        return self.proj(self._attend(qkv.flatten(1, 2), allowed).reshape(x.shape))

    @torch.compiler.disable
    def _region_by_region(self, qkv: Tensor, groups: Sequence[RegionGroup]) -> Tensor:
        """(tokens of the batch, 3C) to (tokens of the batch, C)."""
        dim = self.proj.in_features
        attended = qkv.new_empty((len(qkv), dim))
        for tokens, real in groups:
            if tokens.shape[1] == 1:  # a lone token attends to itself
                attended[tokens] = qkv[tokens][..., 2 * dim :]
            elif real is None:
                attended[tokens] = self._attend(qkv[tokens])
            else:
                attended[tokens[real]] = self._attend(qkv[tokens], real[:, None, None])[real]
        return attended

    def _attend(self, qkv: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(N, tokens, 3C) to (N, tokens, C)."""
        query, key, value = qkv.unflatten(-1, [3, self.num_heads, -1]).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=self.scale)
        return attended.transpose(1, 2).flatten(2)


class WindowAttention(nn.Module):
    """Every token attends to its window, which couples regions; no shift, no position table."""

    def __init__(self, dim: int, num_heads: int, window_size: int, scale: float) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.scale = num_heads, window_size, scale
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape; H and W are multiples of the window."""
        b, h, w, c = x.shape
        n = self.window_size
        qkv = self.qkv(x).reshape(b, h // n, n, w // n, n, 3, self.num_heads, c // self.num_heads)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, self.num_heads, n * n, c // self.num_heads)
        attended = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], scale=self.scale)
        attended = attended.reshape(b, h // n, w // n, self.num_heads, n, n, c // self.num_heads)
        return self.proj(attended.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, h, w, c))


class RATLayer(nn.Module):
    """Region attention, then window attention, each followed by a feed-forward part."""

    def __init__(self, dim: int, num_heads: int, window_size: int, mlp_ratio: float, scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(4))
        self.region_attention = RegionAttention(dim, num_heads, scale)
        self.window_attention = WindowAttention(dim, num_heads, window_size, scale)
        self.region_ffn, self.window_ffn = (
            nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
            for hidden in (int(dim * mlp_ratio),) * 2
        )
        self.region_scale, self.window_scale = (nn.Parameter(torch.zeros(dim)) for _ in range(2))

    def forward(self, x: Tensor, regions: Regions) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.region_scale * self.region_attention(self.norm1(x), regions)
        x = x + self.region_ffn(self.norm2(x))
        x = x + self.window_scale * self.window_attention(self.norm3(x))
        return x + self.window_ffn(self.norm4(x))


class RATBlock(nn.Module):
    """Layers and a 3x3 convolution, added to their input."""

    def __init__(self, layers: Sequence[RATLayer], dim: int, use_checkpoint: bool) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.layers = nn.ModuleList(layers)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, regions: Regions) -> Tensor:
        """(B, H, W, C) to the same shape."""
        y = x
        for layer in self.layers:
            if not torch.jit.is_scripting() and self.use_checkpoint:
                y = checkpoint(layer, y, regions, use_reentrant=False)
            else:
                y = layer(y, regions)
        return x + _channels_last(self.conv(_channels_first(y)))


class NAFBlock(nn.Module):
    """Convolutional block without an activation function (NAFNet): gates multiply one half by the other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.expand1, self.expand2 = (nn.Linear(dim, 2 * dim) for _ in range(2))
        self.depthwise = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim)
        self.channel_attention = nn.Linear(dim, dim)
        self.contract1, self.contract2 = (nn.Linear(dim, dim) for _ in range(2))
        self.scale1, self.scale2 = (nn.Parameter(torch.zeros(dim)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        y = _gate(_channels_last(self.depthwise(_channels_first(self.expand1(self.norm1(x))))))
        y = y * self.channel_attention(y.mean(dim=(1, 2), keepdim=True))
        x = x + self.scale1 * self.contract1(y)
        return x + self.scale2 * self.contract2(_gate(self.expand2(self.norm2(x))))


class Upsample(nn.Module):
    """Linear layer to twice the channels, whose quadruples become 2x2 pixels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, 2H, 2W, C/2)."""
        b, h, w, c = x.shape
        x = self.expand(x).reshape(b, h, w, c // 2, 2, 2).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(b, 2 * h, 2 * w, c // 2)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return first * second


class RAT(PublishedNetwork):
    """Region attention transformer: restores an image, given a map of its regions.

    Parameters
    ----------
    in_channels
        Channels of the image and of the restored one.
    upscale
        Factor by which the output is larger than the image (super-resolution); 1 for denoising.
    width
        Channels at full resolution; every level doubles them.
    encoder_depths, decoder_depths
        NAF blocks of the levels, the encoder's from full resolution down, the decoder's from the bottom up.
    num_blocks, layers_per_block
        Transformer blocks at the bottom and layers of each. The authors give their product, 12.
    num_heads, window_size, mlp_ratio
        Heads, window edge (tokens) and feed-forward ratio of the transformer layers.
    attention_scale
        ``"heads"``: 1/sqrt(number of heads), as in the authors' code; ``"head_dim"``: 1/sqrt(channels of a
        head), the usual one, for new training.
    use_checkpoint
        Recompute the transformer layers in the backward pass: less memory, more time.

    Notes
    -----
    Input: image (B, in_channels, H, W) and region map (B, H*upscale, W*upscale), or with a channel axis of
    one, of whole numbers of which only the equality counts; output (B, in_channels, H*upscale, W*upscale).
    Region maps come from `medvit.transforms.RegionMapd`. A network trained with one source of regions
    should run with the same: the map belongs to the input.

    Sizes: the authors' class accepts multiples of ``2**levels * window_size`` (16); here other sizes are
    padded with the edge values and cropped. As in their class, the map is sampled at the top-left pixel of
    each token, and layer scales start at zero, so an untrained RAT ignores its map.

    Export: the groups of a region map are data, so a scripted, traced or exported graph computes the dense
    masked form, which is the same function for any map, at the published cost.

    No weights are published. `load_published` reads the layout of the authors' class.

    References
    ----------
    Yang, Zhang, Zhang, Li, Wang, Li: Region attention transformer for medical image restoration,
    MICCAI 2024, arXiv 2407.09268. NAF blocks: Chen et al., arXiv 2204.04676.

    Examples
    --------
    >>> network = RAT(1, width=16, num_blocks=1)
    >>> regions = torch.arange(40 * 28).reshape(1, 40, 28) // 200
    >>> network(torch.zeros(1, 1, 40, 28), regions).shape
    torch.Size([1, 1, 40, 28])
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        upscale: int = 1,
        width: int = 64,
        encoder_depths: Sequence[int] = (2, 2),
        decoder_depths: Sequence[int] = (2, 2),
        num_blocks: int = 4,
        layers_per_block: int = 3,
        num_heads: int = 8,
        window_size: int = 4,
        mlp_ratio: float = 2.0,
        attention_scale: Literal["heads", "head_dim"] = "heads",
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if len(encoder_depths) != len(decoder_depths):
            raise ValueError("encoder_depths and decoder_depths must name the same number of levels")
        if attention_scale not in ("heads", "head_dim"):
            raise ValueError(f"attention_scale must be 'heads' or 'head_dim', not {attention_scale!r}")
        dims = [width * 2**i for i in range(len(encoder_depths) + 1)]
        if dims[-1] % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the channels at the bottom ({dims[-1]})")
        self.in_channels, self.upscale = in_channels, upscale
        self.stride, self.window_size = 2 ** len(encoder_depths), window_size
        scale = (num_heads if attention_scale == "heads" else dims[-1] // num_heads) ** -0.5
        self.intro = nn.Conv2d(in_channels, width, 3, padding=1)
        self.encoder = nn.ModuleList(_naf_blocks(dims[i], n) for i, n in enumerate(encoder_depths))
        self.downs = nn.ModuleList(nn.Conv2d(dim, 2 * dim, 2, 2) for dim in dims[:-1])
        self.blocks = nn.ModuleList(
            RATBlock(
                [
                    RATLayer(dims[-1], num_heads, window_size, mlp_ratio, scale)
                    for _ in range(layers_per_block)
                ],
                dims[-1],
                use_checkpoint,
            )
            for _ in range(num_blocks)
        )
        self.ups = nn.ModuleList(Upsample(dim) for dim in dims[:0:-1])
        self.decoder = nn.ModuleList(_naf_blocks(dims[-2 - i], n) for i, n in enumerate(decoder_depths))
        self.readout = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, image: Tensor, regions: Tensor) -> Tensor:
        """Image (B, C, H, W) and its region map to the restored image.

        Raises
        ------
        ValueError
            If the image or the map has another shape, or the map holds anything but whole numbers.
        """
        if not torch.jit.is_scripting():
            self._check(image, regions)
        regions = (regions[:, 0] if regions.ndim == 4 else regions).long()
        if self.upscale != 1:
            image = F.interpolate(
                image, scale_factor=float(self.upscale), mode="bilinear", align_corners=False
            )
        height, width = int(image.shape[2]), int(image.shape[3])
        edge = self.stride * self.window_size
        padded, regions = _continue(image, edge), _continue(regions, edge)
        labels = regions[:, :: self.stride, :: self.stride].flatten(1)
        if torch.jit.is_scripting():
            residual = self._residual(padded, labels)
        else:
            dense = _is_exporting() or (on_device(image) and labels.shape[1] <= _DENSE)
            residual = self._residual(padded, labels if dense else group_regions(labels))
        return image + residual[:, :, :height, :width]

    def _residual(self, image: Tensor, regions: Regions) -> Tensor:
        x = _channels_last(self.intro(image))
        # Module lists of one length, which TorchScript walks through without `strict`.
        skips = []
        for blocks, down in zip(self.encoder, self.downs):  # noqa: B905
            x = blocks(x)
            skips.append(x)
            x = _channels_last(down(_channels_first(x)))
        y = x
        for block in self.blocks:
            y = block(y, regions)
        x = x + y
        for up, blocks in zip(self.ups, self.decoder):  # noqa: B905
            x = blocks(up(x) + skips.pop())
        return self.readout(_channels_first(x))

    def _check(self, image: Tensor, regions: Tensor) -> None:
        if image.ndim != 4 or image.shape[1] != self.in_channels or 0 in image.shape:
            raise ValueError(f"RAT needs an image (B, {self.in_channels}, H, W), not {tuple(image.shape)}")
        if regions.ndim == 4 and regions.shape[1] == 1:
            regions = regions[:, 0]
        size = [int(image.shape[0]), *(int(n) * self.upscale for n in image.shape[2:])]
        if list(regions.shape) != size:
            raise ValueError(f"RAT needs a region map {size} for this image, not {list(regions.shape)}")
        if regions.is_floating_point() and not _is_exporting() and not torch.equal(regions, regions.round()):
            raise ValueError("the region map holds numbers that are not whole: give one label per pixel")

    def _own_entries(self, published: StateDict) -> StateDict:
        return rename_published(published)


def _naf_blocks(dim: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(dim) for _ in range(depth)))


def _is_exporting() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def _continue(x: Tensor, edge: int) -> Tensor:
    """`x` with its last two axes continued by their last values to a multiple of `edge`."""
    for axis in (-2, -1):
        size = int(x.shape[axis])
        if size % edge:
            index = torch.arange(-(-size // edge) * edge, device=x.device).clamp(max=size - 1)
            x = x.index_select(axis, index)
    return x


_PUBLISHED_NAMES = (
    (r"^ending\.", "readout."),
    (r"^(en|de)coders\.", r"\1coder."),
    (r"^(ups\.\d+)\.0\.", r"\1.expand."),
    (r"^middle_blks\.", "blocks."),
    (r"\.conv1\.", ".expand1."),
    (r"\.conv2\.", ".depthwise."),
    (r"\.sca\.1\.", ".channel_attention."),
    (r"\.conv3\.", ".contract1."),
    (r"\.conv4\.", ".expand2."),
    (r"\.conv5\.", ".contract2."),
    (r"\.beta$", ".scale1"),
    (r"\.gamma$", ".scale2"),
    (r"\.norm_ra\.", ".norm1."),
    (r"\.norm_ra_mlp\.", ".norm2."),
    (r"\.norm_wa\.", ".norm3."),
    (r"\.norm_wa_mlp\.", ".norm4."),
    (r"\.ra\.project_out\.", ".region_attention.proj."),
    (r"\.ra\.", ".region_attention."),
    (r"\.wa\.proj_out\.", ".window_attention.proj."),
    (r"\.wa\.", ".window_attention."),
    (r"\.mlp_ra\.fc(\d)\.", lambda m: f".region_ffn.{2 * int(m[1]) - 2}."),
    (r"\.mlp_wa\.fc(\d)\.", lambda m: f".window_ffn.{2 * int(m[1]) - 2}."),
    (r"\.lambda_ra$", ".region_scale"),
    (r"\.lambda_wa$", ".window_scale"),
)
# Entries that stay convolutions; every other kernel is 1x1 and becomes a matrix.
_CONVOLUTIONS = re.compile(r"(^intro|^readout|^downs\.\d+|\.depthwise|^blocks\.\d+\.conv)\.weight$")


def rename_published(published: StateDict) -> StateDict:
    """The authors' entry names as ours; 1x1 kernels become matrices, (1, C, 1, 1) scales vectors."""
    renamed = {}
    for name, value in published.items():
        name = rename(name, _PUBLISHED_NAMES)
        if name.endswith("_scale") or re.search(r"\.scale\d$", name):
            value = value.flatten()
        elif value.ndim == 4 and not _CONVOLUTIONS.search(name):
            value = value.flatten(1)
        renamed[name] = value
    return renamed
