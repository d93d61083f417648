"""Losses for restoration: RAT's focal region loss and Charbonnier's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.loss import _Loss


class FocalRegionLoss(_Loss):
    """L1 loss in which the weight of a region grows with its current error.

    ``mean(|output - target| * (1 + beta * w))``, where w of a pixel is the mean error of its region over the
    largest of all regions, in [0, 1]. No gradient flows through w.

    Parameters
    ----------
    beta
        Weight of the worst region beyond 1: 0.001 in the authors' training, 1 by default in their class.
    per_item
        False, as the authors: the largest region error of the whole batch, so that an image's weights
        depend on its batch mates. True: the largest of each image alone.

    Notes
    -----
    Where the output equals the target everywhere the loss is 0; the authors' code divides 0 by 0.

    References
    ----------
    Yang et al.: Region attention transformer for medical image restoration, MICCAI 2024, arXiv 2407.09268.

    Examples
    --------
    >>> regions = torch.tensor([[[1, 1, 2, 2]]])
    >>> output, target = torch.tensor([[[[2.0, 2.0, 1.0, 1.0]]]]), torch.zeros(1, 1, 1, 4)
    >>> FocalRegionLoss(beta=1.0)(output, target, regions)  # (2 * 2 + 1 * 1.5) / 2
    tensor(2.7500)
    """

    def __init__(self, beta: float = 1e-3, per_item: bool = False) -> None:
        super().__init__()
        if beta < 0:
            raise ValueError(f"beta must not be negative, it is {beta}")
        self.beta, self.per_item = beta, per_item

    def forward(self, output: Tensor, target: Tensor, regions: Tensor) -> Tensor:
        """The loss of a batch.

        Parameters
        ----------
        output, target
            Images (B, C, H, W).
        regions
            Region numbers (B, H, W) or (B, 1, H, W) at full resolution; only equality counts.

        Raises
        ------
        ValueError
            If the shapes do not agree.
        """
        size = (output.shape[0], *output.shape[2:])
        if target.shape != output.shape:
            raise ValueError(f"output {tuple(output.shape)} and target {tuple(target.shape)} differ in shape")
        if regions.ndim == output.ndim and regions.shape[1] == 1:
            regions = regions[:, 0]
        if regions.shape != size:
            raise ValueError(f"the region map must be {size}, not {tuple(regions.shape)}")
        error = (output - target).abs()
        weight = self._weight(error.detach().mean(dim=1), regions)
        return (error * (1 + self.beta * weight[:, None])).mean()

    def _weight(self, error: Tensor, regions: Tensor) -> Tensor:
        """Region error over the largest one, for every pixel, (B, H, W)."""
        numbers, label = torch.unique(regions, return_inverse=True)
        label = label.flatten(1)
        totals = error.new_zeros((len(error), len(numbers))).scatter_add(1, label, error.flatten(1))
        counts = torch.zeros_like(totals).scatter_add(1, label, torch.ones_like(error).flatten(1))
        means = totals / counts.clamp(min=1)
        largest = means.amax(dim=1, keepdim=True) if self.per_item else means.max()
        # Where all errors are zero so are the weights.
        weights = means / torch.where(largest > 0, largest, torch.ones_like(largest))
        return weights.gather(1, label).reshape(error.shape)


def _laplacian_of_gaussian(sigma: float = 1.5, reach: int = 4) -> Tensor:
    """The kernel (1, 1, n, n) that finds edges; it adds up to 0, its absolute values to 3."""
    square = torch.arange(-reach, reach + 1.0).square()
    share = (square[:, None] + square) / (2 * sigma**2)
    kernel = (share - 1) * torch.exp(-share)
    kernel = kernel - kernel.mean()
    return (3 * kernel / kernel.abs().sum())[None, None]


class CharbonnierLoss(_Loss):
    """``mean(sqrt((output - target)**2 + eps**2))``: a smooth L1 of pixels, block means and edges.

    Pixel by pixel the loss is near to L1, so that a network learns the median of what the truth may be: where
    that is skewed, as in noise of few photons or of a magnitude, tissues shift. The same loss of the means of
    blocks counts such shifts, and that of edges counts detail that is too small to weigh much as pixels.

    Parameters
    ----------
    eps
        Half-width of the bottom, in units of the image.
    blocks
        Edges of square blocks in pixels, whose means are compared as well; at most those of the image.
        What is left over at the far edges counts only pixel by pixel.
    block_weight
        Weight of each size of block; pixels have 1.
    block_eps
        The same as `eps` for blocks, and by default equal to it. Wide, it makes one structure that is far off
        weigh more than many that are slightly off.
    edge_weight
        Weight of the difference of edges, which the Laplacian of a Gaussian 1.5 pixels wide finds. Its
        kernel's absolute values add up to 3, so that edges and pixels weigh much the same.

    References
    ----------
    Charbonnier et al.: Two deterministic half-quadratic regularization algorithms, ICIP 1994.

    Examples
    --------
    >>> target = torch.zeros(1, 1, 8, 8)
    >>> checkers = (-1.0) ** torch.arange(8) * torch.ones(1, 1, 8, 1)
    >>> loss = CharbonnierLoss(eps=0.0, blocks=(4,))
    >>> loss(checkers, target), loss(torch.ones_like(target), target)  # only the second shifts the mean
    (tensor(1.), tensor(2.))
    """

    edges: Tensor

    def __init__(
        self,
        eps: float = 1e-3,
        blocks: Sequence[int] = (),
        block_weight: float = 1.0,
        edge_weight: float = 0.0,
        block_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.block_eps = eps if block_eps is None else block_eps
        self.eps, self.blocks, self.block_weight = eps, tuple(blocks), block_weight
        self.edge_weight = edge_weight
        self.register_buffer("edges", _laplacian_of_gaussian(), persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of two batches of images (B, C, H, W); of pixels alone, of two tensors of one shape.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        if target.shape != output.shape:
            raise ValueError(f"output {tuple(output.shape)} and target {tuple(target.shape)} differ in shape")
        error = output - target
        loss = _charbonnier(error, self.eps)
        for edge in self.blocks:
            means = F.avg_pool2d(error, [min(edge, n) for n in error.shape[-2:]])
            loss = loss + self.block_weight * _charbonnier(means, self.block_eps)
        if self.edge_weight:
            found = F.conv2d(error.flatten(0, 1)[:, None], self.edges.to(error))
            loss = loss + self.edge_weight * _charbonnier(found, self.eps)
        return loss


def _charbonnier(error: Tensor, eps: float) -> Tensor:
    return (error.square() + eps**2).sqrt().mean()
