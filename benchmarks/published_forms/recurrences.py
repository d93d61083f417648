"""Recurrences token by token, and the mLSTM as a matrix of all tokens by all tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scan_loop(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None = None, z: Tensor | None = None, delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:  # fmt: skip
    """The selective scan, one Python step a token; shapes as `mamba_ssm.selective_scan_fn`."""
    delta = delta if delta_bias is None else delta + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    state, outputs = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        state = torch.exp(step * A) * state + step * u[:, :, t, None] * B[:, None, :, t]
        outputs.append((state * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, dim=2)
    y = y if D is None else y + D[:, None] * u
    return y if z is None else y * F.silu(z)


def mlstm_matrix(q: Tensor, k: Tensor, v: Tensor, input_gate: Tensor, forget_gate: Tensor) -> Tensor:
    """The parallel form of the mLSTM: weights (B, H, S, S)."""
    length = q.shape[2]
    kept = F.logsigmoid(forget_gate).cumsum(-1)
    log_weights = kept[..., :, None] - kept[..., None, :] + input_gate[..., None, :]
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    log_weights = log_weights.masked_fill(later, float("-inf"))
    largest = log_weights.amax(-1, keepdim=True)
    weights = torch.exp(log_weights - largest) * (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5)
    total = torch.maximum(weights.sum(-1, keepdim=True).abs(), torch.exp(-largest)) + 1e-6
    return (weights / total) @ v
