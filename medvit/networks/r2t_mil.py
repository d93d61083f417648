"""R2T-MIL: patch features of a slide, re-embedded by regional attention, and pooled (arXiv 2402.17228)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.published import PublishedNetwork, StateDict, renamed

Activation = Literal["relu", "gelu", "tanh"]


def _activation(name: Activation) -> Callable[[Tensor], Tensor]:
    known: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}
    if name not in known:
        raise ValueError(f"the activation must be one of {', '.join(known)}, not {name!r}")
    return known[name]


class TokenRegions(nn.Module):
    """Tokens placed row by row on a square grid, which is divided into square regions.

    Parameters
    ----------
    per_axis
        Regions along each edge of the grid; the grid grows until it divides.
    size
        Tokens along the edge of a region instead; `per_axis` is then ignored.
    """

    def __init__(self, per_axis: int, size: int | None = None) -> None:
        super().__init__()
        if min(per_axis, size or 1) < 1:
            raise ValueError("the number and size of regions must be positive")
        self.per_axis, self.size = per_axis, size

    def grid(self, tokens: int) -> tuple[int, int]:
        """Regions along an edge, and tokens along the edge of each, for a bag of `tokens` tokens."""
        side = math.isqrt(tokens - 1) + 1
        if self.size is not None:
            return -(-side // self.size), self.size
        return self.per_axis, -(-side // self.per_axis)

    def cut(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, regions, tokens of a region, C); zeros fill the end of the grid."""
        count, size = self.grid(int(x.shape[1]))
        x = F.pad(x, (0, 0, 0, (count * size) ** 2 - int(x.shape[1])))
        x = x.unflatten(1, (count, size, count, size)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)

    def join(self, x: Tensor, tokens: int) -> Tensor:
        """The inverse of `cut`: (B, regions, tokens of a region, C) to (B, N, C)."""
        count, size = self.grid(tokens)
        x = x.unflatten(1, (count, count)).unflatten(3, (size, size)).transpose(2, 3)
        return x.flatten(1, 4)[:, :tokens]

    def real(self, x: Tensor) -> Tensor:
        """Mask (1, regions, tokens) of the places with a token of `x` (B, N, C) instead of padding."""
        return self.cut(torch.ones_like(x[:1, :, :1]))[..., 0] > 0


class Attention(nn.Module):
    """Multi-head self-attention, with a convolutional position term where `position_kernel` is given.

    The position term (EPEG) adds to the scores their depthwise convolution along the queries. That is linear
    in the queries, so here the queries are convolved instead of the scores: the same function, and nothing
    of tokens x tokens is held. The published term's bias shifts whole rows of scores, which softmax ignores.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, position_kernel: int | None = None) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the embedding dimension ({dim})")
        if position_kernel is not None and position_kernel % 2 == 0:
            raise ValueError(f"epeg_kernel_size must be odd, not {position_kernel}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.position: nn.Conv2d | None = None
        if position_kernel is not None:
            self.position = nn.Conv2d(
                num_heads,
                num_heads,
                (position_kernel, 1),
                padding=(position_kernel // 2, 0),
                groups=num_heads,
                bias=False,
            )

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(N, tokens, C) to the same shape; `real` (N, tokens) names the keys to attend to."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if self.position is not None:
            known = query if real is None else query * real[:, None, :, None]
            query = query + self.position(known)
        mask = None if real is None else real[:, None, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.dropout(self.proj(attended.transpose(1, 2).flatten(2)))


class RegionSelfAttention(nn.Module):
    """R-MSA: self-attention inside every region (section 3.3)."""

    def __init__(self, attention: Attention, regions: TokenRegions, mask_padding: bool) -> None:
        super().__init__()
        self.attention, self.regions, self.mask_padding = attention, regions, mask_padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        cut = self.regions.cut(x)
        real = None
        if self.mask_padding:
            real = _usable(self.regions.real(x)).expand(cut.shape[:3]).flatten(0, 1)
        return self.regions.join(
            self.attention(cut.flatten(0, 1), real).unflatten(0, cut.shape[:2]), x.shape[1]
        )


class CrossRegionAttention(nn.Module):
    """CR-MSA: each region's few representatives attend to those of the bag's other regions (section 3.3).

    Parameters
    ----------
    attention
        Attention over the regions of one bag.
    regions
        Regions into which the bag is cut.
    to_scores
        Maps tokens (..., C) to scores (..., representatives).
    mask_padding
        Whether padding is excluded.
    """

    def __init__(
        self, attention: Attention, regions: TokenRegions, to_scores: nn.Module, mask_padding: bool
    ) -> None:
        super().__init__()
        self.attention, self.regions, self.to_scores = attention, regions, to_scores
        self.mask_padding = mask_padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        cut = self.regions.cut(x)
        scores = self.to_scores(cut)
        # Under autocast to float16 the divisor below would be zero.
        scores = scores.float() if scores.dtype == torch.float16 else scores
        lowest, highest, filled = scores, scores, None
        if self.mask_padding:
            real = self.regions.real(x)
            empty = ~_usable(real)[..., None]
            lowest, highest = scores.masked_fill(empty, math.inf), scores.masked_fill(empty, -math.inf)
            filled = real.any(-1)
        combine = highest.softmax(dim=2)
        floor = lowest.amin(dim=2, keepdim=True)
        spread = (scores - floor) / (highest.amax(dim=2, keepdim=True) - floor + 1e-8)
        # A bag's representatives of one kind form one sequence: bags and kinds do not influence one another.
        representatives = torch.einsum("bwpn,bwpc->bnwc", combine, cut)
        kinds = representatives.shape[:2]
        if filled is not None:
            filled = filled.expand(kinds[0] * kinds[1], -1)
        representatives = self.attention(representatives.flatten(0, 1), filled).unflatten(0, kinds)
        dispatch = spread * scores.softmax(dim=-1)
        return self.regions.join(torch.einsum("bnwc,bwpn->bwpc", representatives, dispatch), x.shape[1])


def _usable(real: Tensor) -> Tensor:
    """`real`, with regions that hold only padding set to true, so that no softmax is over an empty set."""
    return real | ~real.any(dim=-1, keepdim=True)


class Representatives(nn.Module):
    """Scores of every token for each representative, from a single matrix."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, count))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., representatives)."""
        return x @ self.weight


class R2TLayer(nn.Module):
    """Attention and an optional feed-forward part, each with a norm before it and a residual connection."""

    def __init__(self, dim: int, attention: nn.Module, ffn: nn.Module | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = attention
        self.norm2 = None if ffn is None else nn.LayerNorm(dim)
        self.ffn = ffn

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x if self.ffn is None or self.norm2 is None else x + self.ffn(self.norm2(x))


class AttentionPool(nn.Module):
    """AB-MIL: weighted sum of a bag's tokens, each weight computed from its token (Ilse et al. 2018)."""

    def __init__(
        self, dim: int, hidden: int, activation: Activation, gated: bool, bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.activation = _activation(activation)
        self.value = nn.Linear(dim, hidden, bias=bias)
        self.gate = nn.Linear(dim, hidden, bias=bias) if gated else None
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(hidden, 1, bias=bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) to the pooled (B, C) and the weights (B, N)."""
        hidden = self.dropout(self.activation(self.value(x)))
        if self.gate is not None:
            hidden = hidden * self.dropout(torch.sigmoid(self.gate(x)))
        weights = self.score(hidden)[..., 0].softmax(dim=-1)
        return torch.einsum("bn,bnc->bc", weights, x), weights


class R2TMIL(PublishedNetwork):
    """Classifier of bags of patch features, as of a whole-slide image.

    Parameters
    ----------
    in_channels, out_channels
        Length of a patch's feature vector and number of classes.
    dim
        Width of the network.
    num_layers
        Regional layers; the last one is across regions (CR-MSA), those before inside them (R-MSA).
    num_heads, region_num, region_size, epeg_kernel_size
        R-MSA: heads; regions along each edge of the bag's grid, or (where `region_size` is given) tokens
        along the edge of a region; length of the position term along the queries, None for none.
    crmsa_representatives, crmsa_heads, crmsa_mlp, crmsa_region_num
        CR-MSA: representatives of a region, heads, whether their scores come from a small network, and
        regions along each edge. The authors' code does not pass `region_num` on: CR-MSA always has 8.
    all_shortcut
        Whether the projected features are added to the re-embedded ones.
    ffn_ratio, ffn_activation
        Feed-forward part of the layers; a ratio of 0, as published, for none.
    activation, pool_activation, pool_gated, pool_bias
        Activation of the projection; activation, gate and bias of the pooling.
    dropout, attention_dropout, pool_dropout
        Dropout after the projection, after each attention, and inside the pooling.
    mask_padding
        False, as published: the zeros that fill a bag's grid take part in attention, as keys and values
        that are the layer's bias. True: they do not. Use weights in the mode in which they were trained.

    Notes
    -----
    Input (B, N, in_channels) or one bag (N, in_channels); output (B, out_channels) logits. Bags of different
    length come padded, with `mask` (B, N) true at real tokens: each is then computed alone, on its own grid.
    Bags never see each other; in the authors' code those of a batch do, in CR-MSA. The grid is the order of
    the patches in the bag, not their place on the slide. With at most ``region_num**2`` tokens a region is
    one token and CR-MSA adds nothing. The authors' switch from regions to the whole bag for short bags, off
    by default, is left out.

    Export: the example fixes the length of the bag, because it fixes the grid, but not the batch. A `mask`
    cannot be exported, since its lengths are data.

    No weights are published; `load_published` reads training checkpoints of the authors' code.

    References
    ----------
    Tang, Zhou, Huang, Zhu, Zhang, Liu: Feature re-embedding, towards foundation model-level performance in
    computational pathology, CVPR 2024, arXiv 2402.17228.

    Examples
    --------
    >>> R2TMIL(384, 2, dim=64)(torch.zeros(3, 500, 384)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        in_channels: int = 1024,
        out_channels: int = 2,
        *,
        dim: int = 512,
        num_layers: int = 2,
        num_heads: int = 8,
        region_num: int = 8,
        region_size: int | None = None,
        epeg_kernel_size: int | None = 15,
        crmsa_representatives: int = 3,
        crmsa_heads: int = 8,
        crmsa_mlp: bool = False,
        crmsa_region_num: int = 8,
        all_shortcut: bool = True,
        ffn_ratio: float = 0.0,
        ffn_activation: Activation = "gelu",
        activation: Activation = "relu",
        pool_activation: Activation = "tanh",
        pool_gated: bool = False,
        pool_bias: bool = False,
        dropout: float = 0.25,
        attention_dropout: float = 0.1,
        pool_dropout: float = 0.0,
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be positive, not {num_layers}")
        self.in_channels, self.all_shortcut = in_channels, all_shortcut
        self.activation = _activation(activation)

        def layer(attention: nn.Module) -> R2TLayer:
            hidden = int(dim * ffn_ratio)
            ffn = FeedForward(dim, hidden, ffn_activation, attention_dropout) if hidden else None
            return R2TLayer(dim, attention, ffn)

        self.embed = nn.Linear(in_channels, dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            layer(
                RegionSelfAttention(
                    Attention(dim, num_heads, attention_dropout, epeg_kernel_size),
                    TokenRegions(region_num, region_size),
                    mask_padding,
                )
            )
            for _ in range(num_layers - 1)
        )
        scores: nn.Module = Representatives(dim, crmsa_representatives)
        if crmsa_mlp:
            hidden, last = nn.Linear(dim, 128, bias=False), nn.Linear(128, crmsa_representatives, bias=False)
            scores = nn.Sequential(hidden, nn.Tanh(), last)
        across = Attention(dim, crmsa_heads, attention_dropout)
        self.cross = layer(CrossRegionAttention(across, TokenRegions(crmsa_region_num), scores, mask_padding))
        self.norm = nn.LayerNorm(dim)
        self.pool = AttentionPool(dim, 128, pool_activation, pool_gated, pool_bias, pool_dropout)
        self.readout = nn.Linear(dim, out_channels)
        self.apply(_initialise)

    def forward(
        self, bag: Tensor, mask: Tensor | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of bags and, on request, the weight of every token in its bag.

        Parameters
        ----------
        bag
            Patch features (B, N, in_channels), or (N, in_channels) of one bag.
        mask
            True at real tokens, (B, N) or (N,); None where all are.
        return_attention
            Whether to give the pooling's weights too.

        Returns
        -------
        torch.Tensor or tuple
            Logits (B, out_channels); with `return_attention` also weights (B, N), which sum to one over a
            bag and are zero where the mask is false.

        Raises
        ------
        ValueError
            If the shapes do not fit, or a bag is empty.
        """
        bag, mask = self._check(bag, mask)
        if mask is None:
            logits, weights = self._classify(bag)
        else:
            alone = [self._classify(tokens[real][None]) for tokens, real in zip(bag, mask, strict=True)]
            logits = torch.cat([one for one, _ in alone])
            weights = torch.cat([one[0] for _, one in alone])
            weights = weights.new_zeros(mask.shape).masked_scatter(mask, weights)
        return (logits, weights) if return_attention else logits

    def reembed(self, bag: Tensor) -> Tensor:
        """Patch features (B, N, in_channels) as re-embedded tokens (B, N, dim)."""
        first = x = self.dropout(self.activation(self.embed(bag)))
        for layer in self.layers:
            x = layer(x)
        x = self.cross(x)
        return self.norm(x + first if self.all_shortcut else x)

    def _classify(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        pooled, weights = self.pool(self.reembed(bag))
        return self.readout(pooled), weights

    def _check(self, bag: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Bags (B, N, in_channels) and a boolean mask (B, N)."""
        if bag.ndim not in (2, 3) or bag.shape[-1] != self.in_channels:
            raise ValueError(
                f"R2TMIL needs bags (B, N, {self.in_channels}) or (N, {self.in_channels}), "
                f"not {tuple(bag.shape)}"
            )
        bag = bag if bag.ndim == 3 else bag[None]
        if 0 in bag.shape:
            raise ValueError("a bag without patches has no class: leave it out")
        if mask is None:
            return bag, None
        mask = (mask if mask.ndim == 2 else mask[None]).bool()
        if mask.shape != bag.shape[:2]:
            raise ValueError(f"the mask must be {tuple(bag.shape[:2])}, not {tuple(mask.shape)}")
        empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"bags without patches have no class: leave out bag {empty} of the batch")
        return bag, mask

    def _own_entries(self, published: StateDict) -> StateDict:
        return renamed(published, _PUBLISHED_NAMES)

    def _unused_entries(self, published: StateDict) -> tuple[str, ...]:
        # The position term's biases change nothing.
        return tuple(name for name in published if name.endswith(".attn.attn.pe.bias"))


class FeedForward(nn.Module):
    """Two linear layers with dropout."""

    def __init__(self, dim: int, hidden: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.activation = _activation(activation)
        self.expand, self.contract = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        return self.dropout(self.contract(self.dropout(self.activation(self.expand(x)))))


def _initialise(module: nn.Module) -> None:
    """As the authors: linear layers and convolutions Xavier normal, without bias."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_PUBLISHED_NAMES = (
    (r"^patch_to_emb\.0\.", "embed."),
    (r"^online_encoder\.layers\.", "layers."),
    (r"^online_encoder\.cr_msa\.", "cross."),
    (r"^online_encoder\.norm\.", "norm."),
    (r"^(layers\.\d+|cross)\.norm\.", r"\1.norm1."),
    (r"\.mlp\.fc1\.", ".ffn.expand."),
    (r"\.mlp\.fc2\.", ".ffn.contract."),
    (r"\.attn\.attn\.pe\.", ".attention.attention.position."),
    (r"\.attn\.attn\.", ".attention.attention."),
    (r"\.attn\.phi$", ".attention.to_scores.weight"),
    (r"\.attn\.phi\.", ".attention.to_scores."),
    (r"^pool_fn\.attention\.attention\.0\.", "pool.value."),
    (r"^pool_fn\.attention\.attention\.[23]\.", "pool.score."),
    (r"^pool_fn\.attention\.attention_a\.0\.", "pool.value."),
    (r"^pool_fn\.attention\.attention_b\.0\.", "pool.gate."),
    (r"^pool_fn\.attention\.attention_c\.", "pool.score."),
    (r"^predictor\.", "readout."),
)
