"""Mamba's selective scan (Gu and Dao 2023, arXiv 2312.00752), in PyTorch or by mamba_ssm's kernel."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

from medvit.networks.layers.autocast import without_autocast
from medvit.networks.layers.forms import on_device
from medvit.networks.layers.recurrence import linear_recurrence

# Inside, time comes first and the channels last: dt, du (L, B, D), rates (N, D), b, c (L, B, N) and a state
# (B, N, D). Every exponent is a sum of steps times a negative rate, so nothing can overflow: the form that
# divides by the decay would, as soon as the decay is strong.

LOG2_E = 1 / math.log(2)

# Tokens whose decays and states are formed at once: long enough to spare calls, short enough for the cache.
BLOCK = 128


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None = None, z: Tensor | None = None, delta_bias: Tensor | None = None,
    delta_softplus: bool = False, return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t and read y_t = C_t h_t + D u_t.

    Parameters
    ----------
    u, delta, z
        Input, step before its bias and the gate, each (B, D, L).
    A
        Rates (D, N), all negative.
    B, C
        Input and output vectors of the state, each (B, N, L).
    D, delta_bias
        Skip and bias of the step, each (D,).
    delta_softplus
        Whether the step is softplus(delta + delta_bias).
    return_last_state
        Whether to give the state after the last token as well.

    Returns
    -------
    Tensor or (Tensor, Tensor)
        y (B, D, L) in the dtype of `u`, times SiLU(z) where `z` is given; the last state (B, D, N).

    Notes
    -----
    The names are those of ``mamba_ssm.selective_scan_fn``, whose kernel is used for CUDA tensors if it is
    installed and a first call succeeds. The sums are kept in float32, or float64 for a float64 `u`. Without
    the kernel, an eager CPU call processes the tokens one by one in blocks, and stores one state per block
    for the backward pass (which cannot be differentiated again). On a device, and while a graph is recorded
    (trace, export, compile), all tokens advance together in log2(L) steps; such a graph has a fixed length.
    """
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    tensors = (None if x is None else _plain(x.to(dtype)) for x in (u, delta, A, B, C, D, z, delta_bias))
    kernel = _kernel(u.device) if u.is_cuda and dtype == torch.float32 and not _recording() else None
    scan: Callable[..., tuple[Tensor, Tensor]] = kernel or _scan
    with without_autocast(u):
        y, state = scan(*tensors, delta_softplus, return_last_state=True)
    return (y.to(u.dtype), state) if return_last_state else y.to(u.dtype)


def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, return_last_state: Literal[True],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The kernel's computation in PyTorch."""
    steps = delta if delta_bias is None else delta + delta_bias[:, None]
    steps = F.softplus(steps) if delta_softplus else steps
    scan = _doubling_scan if on_device(u) or _recording() else _BlockScan.apply
    inner, state = scan(
        _time_first(steps), _time_first(steps * u), A.t().contiguous(), _time_first(B), _time_first(C)
    )
    y = inner.permute(1, 2, 0)
    y = y if D is None else y + D[:, None] * u
    y = y if z is None else y * F.silu(z)
    return y, state.transpose(1, 2)


def _plain(x: Tensor) -> Tensor:
    # The bookkeeping of a MetaTensor would cost more than the arithmetic for a token.
    return x.as_tensor() if isinstance(x, MetaTensor) else x


def _time_first(x: Tensor) -> Tensor:
    return x.permute(2, 0, 1).contiguous()


def _recording() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _states(dt: Tensor, du: Tensor, rates: Tensor, b: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Decay factors and states (T, B, N, D) of a block of tokens whose predecessor left the state `start`."""
    # exp2 is several times faster than exp on a CPU, most of all where the result is nearly zero.
    factors = torch.exp2(dt[:, :, None] * (rates * LOG2_E))
    states = du[:, :, None] * b[..., None]
    _recur(factors, states, start)
    return factors, states


def _recur(factors: Tensor, states: Tensor, start: Tensor) -> None:
    """Add the preceding state, scaled by its factor, to each state (T, ...) in place."""
    if len(states) < 8:
        for factor, state in zip(factors.unbind(0), states.unbind(0), strict=True):
            start = state.addcmul_(factor, start)
        return
    # Tokens in pairs halve the calls: the second takes in its first, the seconds run, the firsts follow.
    pairs = len(states) // 2 * 2
    seconds = states[1::2]
    seconds.addcmul_(factors[1::2], states[:pairs:2])
    _recur(factors[1::2] * factors[:pairs:2], seconds, start)
    states[0].addcmul_(factors[0], start)
    states[2::2].addcmul_(factors[2::2], seconds[: len(states[2::2])])


class _BlockScan(torch.autograd.Function):
    """The scan, block after block, keeping the state between blocks for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, dt: Tensor, du: Tensor, rates: Tensor, b: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        state = dt.new_zeros(dt.shape[1], *rates.shape)
        y, starts = torch.empty_like(dt), []
        for t in range(0, dt.shape[0], BLOCK):
            starts.append(state)
            block = slice(t, t + BLOCK)
            states = _states(dt[block], du[block], rates, b[block], state)[1]
            y[block] = torch.matmul(c[block, :, None], states)[:, :, 0]
            state = states[-1].clone()
        ctx.save_for_backward(dt, du, rates, b, c, *starts)
        return y, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor, ...]:
        dt, du, rates, b, c, *starts = ctx.saved_tensors
        grads = [torch.zeros_like(x) for x in (dt, du, rates, b, c)]
        grad_dt, grad_du, grad_rates, grad_b, grad_c = grads
        for i in reversed(range(len(starts))):
            block = slice(i * BLOCK, (i + 1) * BLOCK)
            factors, states = _states(dt[block], du[block], rates, b[block], starts[i])
            grad_c[block] = torch.matmul(states, grad_y[block, ..., None])[..., 0]
            # The gradient of the states is the same recurrence, run backwards in time.
            grad = grad_y[block, :, None] * c[block, ..., None]
            grad[-1] += grad_state
            rows = grad.unbind(0)
            for t in range(len(rows) - 1, 0, -1):
                rows[t - 1].addcmul_(factors[t], rows[t])
            grad_state = factors[0] * rows[0]
            grad_b[block] = torch.matmul(grad, du[block, ..., None])[..., 0]
            grad_du[block] = torch.matmul(b[block, :, None], grad)[:, :, 0]
            before = torch.cat([starts[i][None], states[:-1]])
            grad_exponent = grad.mul_(before).mul_(factors)
            grad_dt[block] = (grad_exponent * rates).sum(2)
            grad_rates += (grad_exponent * dt[block, :, None]).sum((0, 1))
        return tuple(grads)


def _doubling_scan(dt: Tensor, du: Tensor, rates: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The scan of all tokens in log2(L) steps."""
    factors = torch.exp2(dt[:, :, None] * (rates * LOG2_E))
    states = linear_recurrence(factors, du[:, :, None] * b[..., None])
    return torch.matmul(c[:, :, None], states)[:, :, 0], states[-1]


@lru_cache
def _kernel(device: torch.device) -> Callable[..., Any] | None:
    """``mamba_ssm``'s scan if it runs on `device`, which a successful import alone does not prove."""
    try:
        module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError:
        return None
    x, state = torch.ones(1, 2, 4, device=device), torch.ones(1, 1, 4, device=device)
    try:
        module.selective_scan_fn(x, x, -torch.ones(2, 1, device=device), state, state, return_last_state=True)
    except Exception as error:
        warnings.warn(
            f"mamba_ssm is installed, but its selective scan fails on {device} ({error}); "
            "the slower PyTorch scan is used",
            stacklevel=2,
        )
        return None
    return module.selective_scan_fn
