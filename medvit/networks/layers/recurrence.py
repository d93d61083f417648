"""A linear recurrence of any length in a logarithmic number of steps."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_recurrence(factors: Tensor, inputs: Tensor) -> Tensor:
    """States h_t = f_t h_{t-1} + x_t from h_{-1} = 0, along the first axis.

    Parameters
    ----------
    factors
        f, (T, ...), which broadcasts to the shape of `inputs`.
    inputs
        x, (T, ...).

    Returns
    -------
    Tensor
        h, (T, ...). Gradients flow.

    Notes
    -----
    Each step doubles the span that a state covers (Hillis and Steele 1986), so that a device runs about 4
    log2(T) large operations where a loop would launch T small ones. Factors are multiplied only with each
    other, so nothing overflows if none exceeds 1.
    """
    if len(inputs) == 1:
        return inputs + 0 * factors  # its gradient is zero, not missing
    span = 1
    while span < len(inputs):
        inputs = torch.cat([inputs[:span], torch.addcmul(inputs[span:], factors[span:], inputs[:-span])])
        factors = torch.cat([factors[:span], factors[span:] * factors[:-span]])
        span *= 2
    return inputs
