"""Levels of a pyramid joined for inference in float32 on a CPU, as products of small matrices.

They give the results of the plain form to within rounding, and have no useful gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers import cpu_blocks


def apply(x: Tensor, weight: Tensor) -> bool:
    """Whether to use these functions: for inference on a CPU, by torch or by the engine of an export."""
    return torch.compiler.is_exporting() or cpu_blocks.apply(x, weight)


def fused(
    levels: Sequence[Tensor],
    project: Iterable[nn.Module],
    norms: Iterable[nn.Module],
    kernels: Sequence[Tensor],
) -> Tensor:
    """The sum of all levels, each projected, normalised, mixed by its kernel, and upsampled to the first.

    Parameters
    ----------
    levels
        (B, D_i, H_i, W_i, C_i), finest first.
    project, norms
        Linear layer and layer norm of each level.
    kernels
        (width, width) of each level.

    Returns
    -------
    Tensor
        (B, D_1, H_1, W_1, width).
    """
    finest, *others = (
        mixed_narrow(x, linear, norm, kernel)
        if x.shape[-1] < kernel.shape[0] <= x[..., 0].numel()
        else F.linear(norm(linear(x)), kernel)
        for x, linear, norm, kernel in zip(levels, project, norms, kernels, strict=True)
    )
    return add_upsampled_(finest, others)


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm of (B, D, H, W, C) maps; a batch norm reads them in place, without a copy in an export."""
    if isinstance(norm, nn.BatchNorm3d) and not norm.training:
        rows = x.flatten(0, 3)
        found = F.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return found.view(x.shape)
    return norm(x.movedim(-1, 1)).movedim(1, -1)


def upsampled(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, d, h, w) interpolated trilinearly to (B, C, *size), axis by axis."""
    depth, height, width = (_weights(n, to, x) for n, to in zip(x.shape[2:], size, strict=True))
    x = height @ (x.contiguous() @ width.T)
    return (depth @ x.flatten(3)).unflatten(3, (size[1], size[2]))


def add_upsampled_(target: Tensor, levels: Sequence[Tensor]) -> Tensor:
    """Add maps (B, d, h, w, C), interpolated trilinearly, to `target` (B, D, H, W, C), in place.

    The maps are interpolated along depth and height while they are narrow. The last axis is done for all of
    them, and added to `target`, in a single product.
    """
    b, depth, height, width, channels = target.shape
    lines, weights = [], []
    for x in levels:
        d, h, w = x.shape[1:4]
        x = _weights(d, depth, x) @ x.reshape(b, d, h * w * channels)
        x = _weights(h, height, x) @ x.view(b * depth, h, w * channels)
        lines.append(x.view(-1, w, channels))
        weights.append(_weights(w, width, x))
    along = torch.cat(weights, 1).expand(b * depth * height, -1, -1)
    target.view(-1, width, channels).baddbmm_(along, torch.cat(lines, 1))
    return target


def mixed_narrow(x: Tensor, project: Any, norm: Any, kernel: Tensor) -> Tensor:
    """`kernel` times the layer norm of a projection, computed in the channels of `x`, which are fewer.

    A layer norm is affine except for the length of its vector without the mean. For a projection of x, that
    is the length of a product of x with the triangular factor of the projection, which has one row and column
    more than x has channels.

    Parameters
    ----------
    x
        (..., C).
    project, norm
        The projection from C to W channels, and the norm of these.
    kernel
        (out, W).

    Returns
    -------
    Tensor
        (..., out).
    """
    weight, bias = (part - part.mean(0) for part in (project.weight, project.bias))
    if torch.compiler.is_exporting():  # engines know no factorisation
        lengths = F.linear(x, weight, bias)
    else:
        factor = torch.linalg.qr(torch.cat([weight, bias[:, None]], 1), mode="r").R
        lengths = F.linear(x, factor[:, :-1], factor[:, -1])
    scale = (lengths.square().sum(-1, keepdim=True) / len(weight) + norm.eps).rsqrt()
    gained = kernel * norm.weight
    return torch.addcmul(kernel @ norm.bias, F.linear(x, gained @ weight, gained @ bias), scale)


def _weights(size: int, to: int, like: Tensor) -> Tensor:
    """(to, size): weights of linear interpolation along an axis, with voxels as boxes."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None], size=to, mode="linear", align_corners=False)[0].T
