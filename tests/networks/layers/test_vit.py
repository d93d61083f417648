"""The plain transformer block against attention written out."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medvit.networks.layers.vit import BLOCK_NAMES, Mlp, SelfAttention, TransformerBlock, init_linear_layers


def test_attention_is_the_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention, x = SelfAttention(6, 3).eval(), torch.rand(2, 5, 6)
    query, key, value = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for h in range(3):
        q, k, v = (t[..., 2 * h : 2 * h + 2] for t in (query, key, value))
        heads.append(torch.softmax(q @ k.mT / 2**0.5, dim=-1) @ v)
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, dim=-1)))


def test_the_block_adds_attention_and_perceptron_to_its_input() -> None:
    torch.manual_seed(0)
    block, x = TransformerBlock(4, 2, 8, norm_eps=1e-3).eval(), torch.rand(1, 3, 4)
    y = x + block.attention(F.layer_norm(x, (4,), eps=1e-3))
    first, second = block.mlp[0], block.mlp[3]
    torch.testing.assert_close(block(x), y + second(F.gelu(first(F.layer_norm(y, (4,), eps=1e-3)))))


def test_dropout_acts_while_training_only() -> None:
    torch.manual_seed(0)
    attention, x = SelfAttention(4, 2, dropout=0.5), torch.rand(1, 8, 4)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_heads_divide_the_channels() -> None:
    with pytest.raises(ValueError, match=r"num_heads \(4\) must divide the embedding dimension \(6\)"):
        SelfAttention(6, 4)
    assert SelfAttention(6, 2, qkv_bias=False).qkv.bias is None


def test_published_names_lead_to_ours() -> None:
    ours = set(TransformerBlock(4, 2, 8).state_dict())
    theirs = [f"{part}.{kind}" for kind in ("weight", "bias") for part in ("attn.qkv", "mlp.fc1", "mlp.fc2")]
    for name in theirs:
        renamed = f"block.{name}"
        for pattern, new in BLOCK_NAMES:
            renamed = re.sub(pattern, new, renamed)
        assert renamed.removeprefix("block.") in ours


def test_linear_layers_start_small() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(200, 200), Mlp(8, 8), nn.Conv1d(1, 1, 1))
    kept = network[2].weight.clone()
    init_linear_layers(network)
    assert network[0].weight.detach().std() == pytest.approx(0.02, rel=0.05)
    assert network[0].weight.abs().max() <= 2 and not network[1].fc1.bias.any()
    assert torch.equal(network[2].weight, kept)
