"""CATANet: content-aware token aggregation for light super-resolution (Liu et al., arXiv 2503.06896)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers.padding import crop_to
from medvit.networks.layers.vit import init_linear_layers
from medvit.networks.published import PublishedNetwork

# Parameter modules keep the authors' names, so that a published state dict loads as it is. Tokens are
# (B, N, C) in row-major order of the image.

_EMA = 0.999
_COSINE_EPS = 1e-12
# Patches whose attention scores are held in memory at once.
_PATCHES_AT_ONCE = 32


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dwconv = nn.ModuleDict(
            {"depthwise_conv": nn.Sequential(nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden))}
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = F.gelu(self.fc1(x))
        local = self.dwconv["depthwise_conv"](x.transpose(1, 2).unflatten(2, size))
        return self.fc2(x + F.gelu(local).flatten(2).transpose(1, 2))


class _PreNorm(nn.Module):
    def __init__(self, dim: int, function: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), function

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        return self.fn(self.norm(x), *arguments)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    """Multi-head attention of (N, L, qk) on (N, M, qk) and (N, M, C), to (N, L, C).

    Heads of unequal width are padded with zeros to the wider one, for which torch has a fused kernel.
    """
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    width = value.shape[-1]
    lack = width - query.shape[-1]
    if lack > 0:
        query, key = F.pad(query, (0, lack)), F.pad(key, (0, lack))
    elif lack < 0:
        value = F.pad(value, (0, -lack))
    y = F.scaled_dot_product_attention(query, key, value, scale=scale)[..., :width]
    return y.transpose(1, 2).flatten(2)


class _CentreAttention(nn.Module):
    """Keys and values of the centres (IRCA)."""

    def __init__(self, dim: int, qk_dim: int) -> None:
        super().__init__()
        self.to_k, self.to_v = nn.Linear(dim, qk_dim, bias=False), nn.Linear(dim, dim, bias=False)


class _GroupAttention(nn.Module):
    """Attention of each group of sorted tokens to itself and to the next group (IASA)."""

    def __init__(self, dim: int, qk_dim: int, heads: int, group_size: int) -> None:
        super().__init__()
        self.heads, self.group_size, self.scale = heads, group_size, (qk_dim / heads) ** -0.5
        self.to_q, self.to_k = nn.Linear(dim, qk_dim, bias=False), nn.Linear(dim, qk_dim, bias=False)
        self.to_v, self.proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, order: Tensor, centre_keys: Tensor, centre_values: Tensor) -> Tensor:
        """Tokens (B, N, C) to the same shape, sorted by `order` (B, N); centres are (M, qk) and (M, C)."""
        b, n, c = x.shape
        size = min(n, self.group_size)
        groups = -(-n // size)
        lack = groups * size - n
        if n < lack + size:
            raise ValueError(f"an image of {n} pixels is too small for groups of {self.group_size} tokens")
        query, key, value = (
            layer(x).gather(1, order[..., None].expand(-1, -1, layer.out_features))
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        query = torch.cat([query, query[:, n - lack :].flip(1)], dim=1)
        key, value = (torch.cat([y, y[:, n - lack - size :].flip(1)], dim=1) for y in (key, value))
        key, value = (y.unfold(1, 2 * size, size).flatten(0, 1).transpose(1, 2) for y in (key, value))
        near = _attend(query.reshape(b * groups, size, -1), key, value, self.heads, self.scale)
        keys, values = (y.expand(b, -1, -1) for y in (centre_keys, centre_values))
        y = near.reshape(b, -1, c) + _attend(query, keys, values, self.heads, self.scale)
        back = torch.empty_like(order).scatter_(1, order, torch.arange(n, device=x.device).expand(b, -1))
        return self.proj(y[:, :n].gather(1, back[..., None].expand(-1, -1, c)))


class _TokenAggregation(nn.Module):
    """Tokens sorted by their nearest centre, so that similar ones attend to each other (TAB)."""

    means: Tensor
    initted: Tensor

    def __init__(
        self, dim: int, qk_dim: int, mlp_dim: int, heads: int, n_iter: int, num_tokens: int, group_size: int
    ) -> None:
        super().__init__()
        self.n_iter, self.num_tokens = n_iter, num_tokens
        self.norm = nn.LayerNorm(dim)
        self.mlp = _PreNorm(dim, _FeedForward(dim, mlp_dim))
        self.irca_attn = _CentreAttention(dim, qk_dim)
        self.iasa_attn = _GroupAttention(dim, qk_dim, heads, group_size)
        self.register_buffer("means", torch.randn(num_tokens, dim))
        self.register_buffer("initted", torch.tensor(False))
        self.conv1x1 = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (B, N, C) to the same shape."""
        y = self.norm(x)
        # Only training reads the flag on the host; otherwise the choice is made on the device of the tokens.
        centres = torch.where(self.initted, self.means.to(y.dtype), self._first_centres(y))
        if self.training:
            centres = self._moved(y, centres)
        order = self._assignment(y, centres).sort(dim=1, stable=True).indices
        attended = self.iasa_attn(y, order, self.irca_attn.to_k(centres), self.irca_attn.to_v(centres))
        x = x + F.linear(attended, self.conv1x1.weight[..., 0, 0])
        return x + self.mlp(x, size)

    def _first_centres(self, y: Tensor) -> Tensor:
        """Initial centres (M, C): means of runs of tokens over the batch."""
        lack = self.num_tokens - y.shape[1] % self.num_tokens
        y = torch.cat([y, y[:, -lack:].flip(1)], dim=1)
        return y.unflatten(1, (self.num_tokens, -1)).mean(dim=(0, 2))

    def _assignment(self, y: Tensor, centres: Tensor) -> Tensor:
        """Index (B, N) of the nearest centre of each token by cosine; the lowest among equals."""
        unit = F.normalize(y, dim=-1, eps=_COSINE_EPS)
        return (unit @ F.normalize(centres, dim=-1, eps=_COSINE_EPS).T).argmax(dim=-1)

    def _moved(self, y: Tensor, centres: Tensor) -> Tensor:
        """Centres after the rounds of a training step; the buffer follows them by a moving average."""
        with torch.no_grad():
            for _ in range(self.n_iter - 1):
                centres = self._round(y, centres)
        centres = self._round(y, centres)
        with torch.no_grad():
            new = centres.detach().to(self.means.dtype)
            self.means.copy_(torch.where(self.initted, _EMA * self.means + (1 - _EMA) * new, new))
            self.initted.fill_(True)
        return centres

    def _round(self, y: Tensor, centres: Tensor) -> Tensor:
        unit = F.normalize(y, dim=-1, eps=_COSINE_EPS).flatten(0, 1)
        nearest = F.one_hot(self._assignment(y, centres).flatten(), self.num_tokens).to(unit.dtype)
        total = nearest.T @ unit
        empty = nearest.sum(dim=0)[:, None] == 0
        return torch.where(
            empty, F.normalize(centres, dim=-1, eps=_COSINE_EPS), F.normalize(total, dim=-1, eps=_COSINE_EPS)
        )


class _PatchAttention(nn.Module):
    def __init__(self, dim: int, qk_dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (qk_dim / heads) ** -0.5
        self.to_q, self.to_k = nn.Linear(dim, qk_dim, bias=False), nn.Linear(dim, qk_dim, bias=False)
        self.to_v, self.proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads, self.scale))


class _LocalRefinement(nn.Module):
    """Attention within square patches that overlap by two pixels (LRSA)."""

    def __init__(
        self, dim: int, qk_dim: int, mlp_dim: int, heads: int, patch_size: int, mend_seams: bool
    ) -> None:
        super().__init__()
        self.patch_size, self.mend_seams = patch_size, mend_seams
        self.layer = nn.ModuleList(
            [_PreNorm(dim, _PatchAttention(dim, qk_dim, heads)), _PreNorm(dim, _FeedForward(dim, mlp_dim))]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        b, height, width, c = x.shape
        n = self.patch_size
        tops, lefts = self._starts(height), self._starts(width)
        rows, columns = ((s[:, None] + torch.arange(n)) for s in (tops, lefts))
        patches = x[:, rows.to(x.device)][:, :, :, columns.to(x.device)]  # (B, rows, n, columns, n, C)
        tokens = patches.transpose(2, 3).reshape(-1, n * n, c)
        tokens = torch.cat([part + self.layer[0](part) for part in tokens.split(_PATCHES_AT_ONCE * b)])
        patches = tokens.reshape(b, len(tops), len(lefts), n, n, c)
        y = torch.zeros_like(x)
        for i, top in enumerate(tops.tolist()):
            for j, left in enumerate(lefts.tolist()):
                y[:, top : top + n, left : left + n] += patches[:, i, j]
        y = y * self._weights(tops, height, x)[:, None, None] * self._weights(lefts, width, x)[:, None]
        y = y.flatten(1, 2)
        return (y + self.layer[1](y, (height, width))).reshape(x.shape)

    def _starts(self, size: int) -> Tensor:
        """First pixel of each patch along one axis; the last patch ends at the border."""
        step = self.patch_size - 2
        count = max(-(-(size - self.patch_size) // step), 0) + 1
        return (torch.arange(count) * step).clamp(max=size - self.patch_size)

    def _weights(self, starts: Tensor, size: int, like: Tensor) -> Tensor:
        """Factor (size,) for each row or column after the patches have been added up."""
        covered = torch.zeros(size)
        for start in starts.tolist():
            covered[start : start + self.patch_size] += 1
        # The authors halve once for each overlap, so that the sum of three patches is divided by four.
        return (1 / covered if self.mend_seams else 0.5 ** (covered - 1)).to(like)


class CATANet(PublishedNetwork):
    """Light super-resolution: similar tokens attend to each other wherever they are, then neighbouring ones.

    The sorting is global, so the result for a tile differs from that for the whole image. Images with a side
    shorter than the largest patch are mirrored up to it.

    Parameters
    ----------
    in_channels
        Channels of the image and of the result.
    upscale
        Factor between the sides of the result and those of the image: 1 (restoration), 2, 3 or 4.
    dim, qk_dim, mlp_dim, num_heads
        Channels of the body, of queries and keys, inside the feed-forward parts, and heads of the attention.
    num_tokens, group_size, n_iters
        For each block: number of centres, tokens per group, and rounds that move the centres in a training
        step.
    patch_sizes
        Side of the patches of each block in pixels.
    mend_seams
        Whether overlapping patches are averaged. The published networks halve for each overlap, so that a row
        in which three patches meet has 0.75 of its value; that happens at a side s for which
        ``(s - patch) % (patch - 2) == 1``.

    References
    ----------
    Liu et al. 2025, "CATANet: efficient content-aware token aggregation for lightweight image
    super-resolution", CVPR.
    """

    def __init__(
        self,
        in_channels: int = 1,
        upscale: int = 2,
        dim: int = 40,
        qk_dim: int = 36,
        mlp_dim: int = 96,
        num_heads: int = 4,
        num_tokens: Sequence[int] = (16, 32, 64, 128, 16, 32, 64, 128),
        group_size: Sequence[int] = (256, 128, 64, 32, 256, 128, 64, 32),
        n_iters: Sequence[int] = (5, 5, 5, 5, 5, 5, 5, 5),
        patch_sizes: Sequence[int] = (16, 20, 24, 28, 16, 20, 24, 28),
        mend_seams: bool = False,
    ) -> None:
        super().__init__()
        if upscale not in (1, 2, 3, 4):
            raise ValueError(f"upscale must be 1, 2, 3 or 4, not {upscale}")
        self.upscale, self.smallest = upscale, max(patch_sizes)
        self.first_conv = nn.Conv2d(in_channels, dim, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    _TokenAggregation(dim, qk_dim, mlp_dim, num_heads, rounds, tokens, group),
                    _LocalRefinement(dim, qk_dim, mlp_dim, num_heads, patch, mend_seams),
                ]
            )
            for rounds, tokens, group, patch in zip(n_iters, num_tokens, group_size, patch_sizes, strict=True)
        )
        self.mid_convs = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in self.blocks)
        if upscale == 4:
            self.upconv1 = nn.Conv2d(dim, 4 * dim, 3, padding=1)
            self.upconv2 = nn.Conv2d(dim, 4 * dim, 3, padding=1)
        elif upscale > 1:
            self.upconv = nn.Conv2d(dim, upscale**2 * dim, 3, padding=1)
        self.last_conv = nn.Conv2d(dim, in_channels, 3, padding=1)
        init_linear_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) to (B, C, H * upscale, W * upscale)."""
        height, width = x.shape[-2:]
        down, right = (max(self.smallest - n, 0) for n in (height, width))
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="reflect")
        first = y = self.first_conv(x)
        for block, conv in zip(self.blocks, self.mid_convs, strict=True):
            aggregate, refine = block.children()
            tokens = aggregate(y.flatten(2).transpose(1, 2), (y.shape[2], y.shape[3]))
            y = y + conv(refine(tokens.reshape(y.movedim(1, -1).shape)).movedim(-1, 1))
        y = self._enlarged(y + first)
        base = x if self.upscale == 1 else F.interpolate(x, scale_factor=self.upscale, mode="bilinear")
        return crop_to(self.last_conv(y) + base, height * self.upscale, width * self.upscale)

    def _enlarged(self, y: Tensor) -> Tensor:
        convolutions = [self.upconv1, self.upconv2] if self.upscale == 4 else []
        if self.upscale in (2, 3):
            convolutions = [self.upconv]
        factor = 3 if self.upscale == 3 else 2
        for conv in convolutions:
            y = F.leaky_relu(F.pixel_shuffle(conv(y), factor), 0.1)
        return y
