"""Attention whose scores are held in memory, with or without R2T-MIL's position term on them."""

from __future__ import annotations

from torch import Tensor

from medvit.networks.r2t_mil import Attention


def unfused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` step by step (no dropout, no causal mask)."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        boolean = attn_mask.dtype.is_floating_point is False
        scores = scores.masked_fill(~attn_mask, float("-inf")) if boolean else scores + attn_mask
    return scores.softmax(-1) @ value


def position_on_scores(self: Attention, x: Tensor, real: Tensor | None = None) -> Tensor:
    """R2T-MIL's attention with the convolution along the queries over the scores themselves."""
    query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if self.position is not None:
        scores = scores + self.position(scores)
    return self.proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
