"""The plain pre-norm transformer block, on tokens (B, N, C)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.published import NameRule

# Names of the timm library's blocks, in which most vision transformers are published, and ours.
BLOCK_NAMES: list[NameRule] = [
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
]


class Mlp(nn.Module):
    """The two-layer GELU perceptron under the timm library's names, on (..., C)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


def init_linear_layers(network: nn.Module) -> None:
    """Start linear layers from a truncated normal of 0.02 with zero bias, as most transformers do."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention of all tokens to all tokens, without a score matrix in memory.

    Parameters
    ----------
    dim, num_heads
        Channels and heads; `num_heads` divides `dim`.
    qkv_bias
        Whether query, key and value have a bias.
    dropout
        Probability of dropping an attention weight.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the embedding dimension ({dim})")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        return self.proj(attended.transpose(1, 2).reshape(batch, tokens, dim))


class TransformerBlock(nn.Module):
    """Attention and a two-layer GELU perceptron, each with a norm before it and a residual connection.

    Parameters
    ----------
    dim, num_heads, mlp_dim
        Channels, heads and the width between the perceptron's two layers.
    qkv_bias
        Whether query, key and value have a bias.
    norm_eps
        Epsilon of both LayerNorms.
    attention_dropout, path_dropout, mlp_dropout
        Dropout of attention weights, of the attention's output, and after each layer of the perceptron.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        qkv_bias: bool = True,
        norm_eps: float = 1e-5,
        attention_dropout: float = 0.0,
        path_dropout: float = 0.0,
        mlp_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = SelfAttention(dim, num_heads, qkv_bias=qkv_bias, dropout=attention_dropout)
        self.path_dropout = nn.Dropout(path_dropout)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(mlp_dropout),
            nn.Linear(mlp_dim, dim),
            nn.Dropout(mlp_dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        x = x + self.path_dropout(self.attention(self.norm1(x)))
        return x + self.mlp(self.norm2(x))
