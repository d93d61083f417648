"""PI-CAI's score of an evaluator's predictions: detections of all cases together."""

from __future__ import annotations

from typing import Any

import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from medvit.metrics import Detections, lesion_candidates, match_candidates, picai_score


class PICAIScore(CumulativeIterationMetric):
    """Mean of patient AUC and lesion average precision over the cases that one process has seen.

    Until there are cases with and without a lesion, the score is 0, so that a training can begin.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Detections] = []

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **options: Any) -> Tensor:
        """Confidence (B, 1) of probability maps (B, 1, X, Y, Z) against label maps of that shape."""
        if y is None or y_pred.shape != y.shape or y_pred.shape[1] != 1:
            raise ValueError(f"cannot score {tuple(y_pred.shape)} against {None if y is None else y.shape}")
        own = [
            match_candidates(lesion_candidates(p[0].clamp(0, 1).cpu().numpy()), r[0].cpu().numpy())
            for p, r in zip(y_pred, y, strict=True)
        ]
        self.found += own
        return torch.tensor([[case.confidence] for case in own])

    def reset(self) -> None:
        """Forget all cases."""
        super().reset()
        self.found = []

    def aggregate(self) -> Tensor:
        """The score of the cases seen since the last reset."""
        return torch.nan_to_num(torch.tensor(picai_score(self.found)))


def picai_handler() -> IgniteMetricHandler:
    """`PICAIScore` of an evaluator's probabilities of a lesion against its label maps."""
    return IgniteMetricHandler(metric_fn=PICAIScore(), output_transform=from_engine(["pred", "label"]))
