"""MONAI's UNETR blocks for inference in float32 on a CPU: channels last, oneDNN, norms in place.

PyTorch uses a slow kernel for small three-dimensional maps and copies channels-last ones around its instance
norm. These functions use the blocks' weights and give the same results without either. They have no gradient.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.networks.layers.forms import on_device

# Elements of a tensor that are processed at once, so that several passes over them stay in the cache.
CHUNK = 2**17


def apply(image: Tensor, weight: Tensor) -> bool:
    """Whether these functions may replace the blocks, given the image and any one of the weights."""
    return (
        not on_device(image)
        and image.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )


def encode(block: Any, x: Tensor) -> Tensor:
    """`UnetrBasicBlock` on channels-last memory."""
    return _residual(block.layer, x)


def join(block: Any, x: Tensor, skip: Tensor) -> Tensor:
    """`UnetrUpBlock`, whose transposed convolution (stride equal to kernel) is one product per corner."""
    weight = block.transp_conv.conv.weight
    channels, kernel = weight.shape[1], weight.shape[2:]
    size = [n * k for n, k in zip(x.shape[2:], kernel, strict=True)]
    joined = x.new_empty(x.shape[0], *size, channels + skip.shape[1])
    joined[..., channels:] = skip.movedim(1, -1)
    x = x.movedim(1, -1)
    for corner in itertools.product(*(range(k) for k in kernel)):
        steps = tuple(slice(c, None, k) for c, k in zip(corner, kernel, strict=True))
        joined[(slice(None), *steps, slice(channels))] = x @ weight[(..., *corner)]
    return _residual(block.conv_block, joined.movedim(-1, 1))


def _residual(block: Any, x: Tensor) -> Tensor:
    """`UnetResBlock`: two normalised convolutions added to the input or its normalised projection."""
    slope = block.lrelu.negative_slope
    y = _normalise_(convolve(block.conv1.conv, x), block.norm1.eps, slope)
    y = _normalise_(convolve(block.conv2.conv, y), block.norm2.eps)
    if block.downsample:
        x = _normalise_(convolve(block.conv3.conv, x), block.norm3.eps)
    return F.leaky_relu_(y.add_(x), slope)


def convolve(conv: Any, x: Tensor) -> Tensor:
    """A convolution of (B, C, *size), in any memory layout, to channels-last memory."""
    x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return torch.mkldnn_convolution(
        x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
    )


def _normalise_(x: Tensor, eps: float, slope: float = 1.0) -> Tensor:
    """Instance norm and leaky ReLU in place where x is channels last, by chunks that stay in the cache."""
    x = x.movedim(1, -1).contiguous()
    rows = x.flatten(1, -2)
    chunks = rows.split(max(CHUNK // rows.shape[-1], 1), dim=1)
    mean = rows.mean(1, keepdim=True)
    squares = sum(chunk.sub_(mean).square().sum(1, keepdim=True) for chunk in chunks)
    scale = (squares / rows.shape[1] + eps).rsqrt()
    for chunk in chunks:
        F.leaky_relu_(chunk.mul_(scale), slope)
    return x.movedim(-1, 1)
