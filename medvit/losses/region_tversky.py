"""The region-specific Tversky loss of MambaClinix (Bian et al. 2024, arXiv 2409.12533), alone and summed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.networks.layers.autocast import at_least_float32


class RegionTverskyLoss(nn.Module):
    """Tversky index of every region of a grid, weighted by the prevailing error in the region.

    With tp, fp and fn the means over a region's voxels, the index is (tp + e) / (tp + a fp + b fn + e), where
    a = alpha + beta (fp + e) / (fp + fn + e) and b likewise for fn: the more frequent error weighs more. The
    loss is minus the mean over regions and classes, so it lies in [-1, 0].

    Parameters
    ----------
    regions
        Regions per axis; the last entries count for an image of fewer axes. Where an axis has fewer voxels
        than regions, regions share voxels.
    include_background
        Whether class 0 counts.
    batch
        Whether the images of a batch are added up before the index is formed.
    alpha, beta, smooth
        Least weight of an error, its range, and the e above.

    References
    ----------
    Bian et al. 2024, arXiv 2409.12533. Published defaults: 8 x 8 x 14 regions in the trainer, 16 x 16 x 16
    in the class.
    """

    def __init__(
        self,
        regions: Sequence[int] = (8, 8, 14),
        *,
        include_background: bool = False,
        batch: bool = True,
        alpha: float = 0.3,
        beta: float = 0.4,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.regions = tuple(regions)
        self.include_background = include_background
        self.batch = batch
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of logits against a label map.

        Parameters
        ----------
        input
            Logits (B, K, *size), of two or three axes.
        target
            Label map (B, 1, *size) of 0 ... K - 1.
        mask
            True (1) where a voxel counts, (B, 1, *size). The means are then over the voxels that count, and a
            region without any is left out. The published code has no mask: it takes an ignored voxel for
            background.

        Returns
        -------
        Tensor
            A number.

        Raises
        ------
        ValueError
            If the shapes do not fit.
        """
        _check(input, target, mask)
        input = at_least_float32(input)
        predicted, truth = input.softmax(1), _one_hot(target, input)
        tp = predicted * truth
        errors = torch.stack([tp, predicted - tp, truth - tp])
        kept = None if mask is None else mask.to(input.dtype)
        if kept is not None:
            errors = errors * kept
        tp, fp, fn = self._pool(errors.flatten(0, 1)).unflatten(0, (3, -1))
        filled = torch.ones_like(tp[:, :1]) if kept is None else self._pool(kept)
        tp, fp, fn = (x / filled.where(filled > 0, 1) for x in (tp, fp, fn))
        if self.batch:
            tp, fp, fn, filled = (x.sum(0, keepdim=True) for x in (tp, fp, fn, filled))
        index = self._index(tp, fp, fn)[:, 0 if self.include_background else 1 :]
        counts = (filled > 0).expand_as(index)
        # An image that is ignored as a whole has no error.
        return -(index * counts).sum() / counts.sum().clamp(min=1)

    def _pool(self, x: Tensor) -> Tensor:
        axes = x.ndim - 2
        pool: Callable[..., Tensor] = F.adaptive_avg_pool3d if axes == 3 else F.adaptive_avg_pool2d
        return pool(x, self.regions[-axes:])

    def _index(self, tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
        both = fp + fn + self.smooth
        a = self.alpha + self.beta * (fp + self.smooth) / both
        b = self.alpha + self.beta * (fn + self.smooth) / both
        return (tp + self.smooth) / (tp + a * fp + b * fn + self.smooth)


class MambaClinixLoss(nn.Module):
    """Cross-entropy, soft Dice and 0.8 times `RegionTverskyLoss`, as MambaClinix is trained.

    Parameters
    ----------
    regions, include_background, batch
        The same parameters as in `RegionTverskyLoss`; `batch` also says whether Dice adds up the images of a
        batch. Dice never counts the background.
    region_weight
        Weight of the region-specific term.
    ignore_label
        Label of voxels that do not count.
    mask_regions
        Whether they are excluded from the region-specific term as well. Off as published, where that term
        takes them for background.

    Notes
    -----
    The published trainer gives the scales of deep supervision the weights 1, 1/2, 1/4, ... with the last set
    to 0 and the sum to 1: ``monai.losses.DeepSupervisionLoss(loss, weights=...)``.
    """

    def __init__(
        self,
        regions: Sequence[int] = (8, 8, 14),
        *,
        include_background: bool = False,
        batch: bool = True,
        region_weight: float = 0.8,
        ignore_label: int | None = None,
        mask_regions: bool = False,
    ) -> None:
        super().__init__()
        self.region_tversky = RegionTverskyLoss(regions, include_background=include_background, batch=batch)
        self.region_weight = region_weight
        self.ignore_label = ignore_label
        self.mask_regions = mask_regions

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss of logits (B, K, *size) against a label map (B, 1, *size); a number."""
        mask = torch.ones_like(target, dtype=torch.bool)
        if self.ignore_label is not None:
            mask = target != self.ignore_label
            target = target.where(mask, 0)
        _check(input, target, mask)
        input = at_least_float32(input)
        region = self.region_tversky(input, target, mask if self.mask_regions else None)
        entropy = F.cross_entropy(input, target[:, 0].long(), reduction="none")[:, None]
        entropy = (entropy * mask).sum() / mask.sum().clamp(min=1)
        return entropy - self._dice(input, target, mask) + self.region_weight * region

    def _dice(self, input: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        smooth = self.region_tversky.smooth
        predicted, truth = (x[:, 1:] * mask for x in (input.softmax(1), _one_hot(target, input)))
        axes = [0, *range(2, input.ndim)] if self.region_tversky.batch else list(range(2, input.ndim))
        overlap = 2 * (predicted * truth).sum(axes)
        return ((overlap + smooth) / (predicted.sum(axes) + truth.sum(axes) + smooth)).mean()


def _one_hot(target: Tensor, logits: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter_(1, target.long(), 1)


def _check(input: Tensor, target: Tensor, mask: Tensor | None) -> None:
    shape = (input.shape[0], 1, *input.shape[2:])
    if input.ndim not in (4, 5) or input.shape[1] < 2 or target.shape != shape:
        raise ValueError(
            f"the loss needs logits (B, K, *size) of two or more classes and a label map (B, 1, *size), "
            f"not {tuple(input.shape)} and {tuple(target.shape)}"
        )
    if mask is not None and mask.shape != shape:
        raise ValueError(f"the mask must be {shape} as the label map, not {tuple(mask.shape)}")
    if int(target.min()) < 0 or int(target.max()) >= input.shape[1]:
        raise ValueError(
            f"labels must lie in 0 ... {input.shape[1] - 1}, not {int(target.min())} ... {int(target.max())}"
        )
