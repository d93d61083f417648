"""The scores of published tables, each under the rules of its authors, as MONAI metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from medvit.metrics import dice, psnr, rmse, ssim, surface_distances, transunet_scores

Score = Callable[[np.ndarray, np.ndarray], float]


class CaseScores(CumulativeIterationMetric):
    """A score of every case and structure; its aggregate is the mean over structures of means over cases.

    Parameters
    ----------
    score
        Of two masks, or of two images where there are no structures. ``nan`` does not count.
    structures
        The values of a label map that count; empty to score each channel as it is, such as an image, or the
        masks of regions that overlap.
    """

    def __init__(self, score: Score, structures: Sequence[int] = ()) -> None:
        super().__init__()
        self.score = score
        self.structures = tuple(structures)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **options: Any) -> Tensor:
        """Scores (B, structures) of label maps (B, 1, ...), or (B, C) of channels (B, C, ...)."""
        if y is None or y_pred.shape != y.shape or (self.structures and y.shape[1] != 1):
            shape = None if y is None else tuple(y.shape)
            raise ValueError(f"cannot score {tuple(y_pred.shape)} against {shape}")
        pairs = zip(y_pred.cpu().numpy(), y.cpu().numpy(), strict=True)
        return torch.tensor([self._of_case(prediction, reference) for prediction, reference in pairs])

    def _of_case(self, prediction: np.ndarray, reference: np.ndarray) -> list[float]:
        if not self.structures:
            return [self.score(p, r) for p, r in zip(prediction, reference, strict=True)]
        return [self.score(prediction[0] == value, reference[0] == value) for value in self.structures]

    def aggregate(self) -> Tensor:
        """The mean of means; ``nan`` if nothing counts."""
        scores = self.get_buffer()
        return torch.nanmean(torch.nanmean(scores, dim=0))


def score_handler(score: Score, structures: Sequence[int] = ()) -> IgniteMetricHandler:
    """`CaseScores` of the predictions of an evaluator against its label maps.

    Parameters
    ----------
    score, structures
        As of `CaseScores`.
    """
    return IgniteMetricHandler(
        metric_fn=CaseScores(score, structures), output_transform=from_engine(["pred", "label"])
    )


def dice_where_present(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice as MONAI's metric counts it, and so the BraTS tables: ``nan`` where the reference is empty."""
    return dice(prediction, reference) if reference.any() else float("nan")


def nnformer_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice as in the tables of nnFormer, SegFormer3D and D-Former: 1 where both masks are empty."""
    value = dice(prediction, reference)
    return 1.0 if np.isnan(value) else value


def nnformer_hd95(prediction: np.ndarray, reference: np.ndarray) -> float:
    """HD95 as in nnFormer's tables, in voxels: over the distances of both directions together.

    It is 0 where either mask is empty, so that a missed organ lowers the mean.
    """
    if not prediction.any() or not reference.any():
        return 0.0
    both = surface_distances(prediction, reference, (1.0,) * reference.ndim).both
    return float(np.percentile(both, 95))


def transunet_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice as in TransUNet's table: 0 without a prediction, 1 where the reference alone is empty."""
    if not prediction.any():
        return 0.0
    return dice(prediction, reference) if reference.any() else 1.0


def transunet_hd95(prediction: np.ndarray, reference: np.ndarray) -> float:
    """HD95 in voxels as in TransUNet's table, see `medvit.metrics.transunet_scores`."""
    return transunet_scores(prediction, reference).hd95_voxels


def dice_absent_is_zero(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice as Swin UNETR's published BTCV test counts it: 0 where the reference is empty."""
    return dice(prediction, reference) if reference.any() else 0.0


@dataclass(frozen=True)
class WindowedPSNR:
    """Mean PSNR (dB) over the slices (last axis) of images cut to a window, whose width is the data range.

    Slices that are restored exactly have none and do not count.

    Parameters
    ----------
    window
        Least and largest intensity.
    """

    window: tuple[float, float]

    def __call__(self, restored: np.ndarray, reference: np.ndarray) -> float:
        """The score of two images (X, Y, Z)."""
        width = self.window[1] - self.window[0]
        values = np.array(
            [psnr(a, b, data_range=width) for a, b in _slices(restored, reference, self.window)]
        )
        return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")


@dataclass(frozen=True)
class WindowedSSIM:
    """Mean SSIM over slices, as `WindowedPSNR`; slices that are restored exactly count as 1."""

    window: tuple[float, float]

    def __call__(self, restored: np.ndarray, reference: np.ndarray) -> float:
        """The score of two images (X, Y, Z)."""
        width = self.window[1] - self.window[0]
        pairs = _slices(restored, reference, self.window)
        return float(np.mean([ssim(a, b, data_range=width) for a, b in pairs]))


@dataclass(frozen=True)
class WindowedRMSE:
    """Mean RMSE over slices, in units of the images, as `WindowedPSNR`."""

    window: tuple[float, float]

    def __call__(self, restored: np.ndarray, reference: np.ndarray) -> float:
        """The score of two images (X, Y, Z)."""
        return float(np.mean([rmse(a, b) for a, b in _slices(restored, reference, self.window)]))


def _slices(
    restored: np.ndarray, reference: np.ndarray, window: tuple[float, float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    images = (np.moveaxis(np.clip(image, window[0], window[1]), -1, 0) for image in (restored, reference))
    return zip(*images, strict=True)
