"""The evaluator of a bundle: one study at a time, each on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from torch import nn

from medvit.engines.dataset import StudyItem
from medvit.engines.outcome import StudyOutcome
from medvit.engines.results import StudyWriter
from medvit.inferers import StreamingWindowInferer


class StudyEvaluator(SupervisedEvaluator):
    """Infers, post-processes and writes studies; one that fails is noted and the next one taken.

    MONAI's evaluator ends with the first exception of a batch. Here the exception belongs to its study.

    Parameters
    ----------
    device
        Where the network runs.
    val_data_loader
        `StudyItem`s; a loader that yields them, or a `StudyDataset` itself.
    network
        With its weights.
    inferer
        Gives (B, 1, X, Y, Z) in the grid of the study.
    postprocessing
        Dictionary transform of the result under ``"pred"``.
    writer
        What is written of a study; `None` keeps results in memory (`last_prediction`).
    val_handlers
        Ignite handlers, as with MONAI's evaluator.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Iterable[StudyItem],
        network: nn.Module,
        inferer: StreamingWindowInferer,
        postprocessing: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        writer: StudyWriter | None = None,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(
            device=torch.device(device),
            val_data_loader=val_data_loader,
            network=network,
            inferer=inferer,
            val_handlers=val_handlers,
            decollate=False,
        )
        self.inferer: StreamingWindowInferer = inferer
        self.postprocess = postprocessing or _unchanged
        self.writer = writer
        self.outcomes: list[StudyOutcome] = []
        self.last_prediction: MetaTensor | None = None

    def _iteration(self, engine: Engine, item: StudyItem) -> StudyOutcome:  # type: ignore[override]
        outcome = self.process(item)
        self.outcomes.append(outcome)
        self.state.output = outcome
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return outcome

    def process(self, item: StudyItem) -> StudyOutcome:
        """Take one study from its preprocessed image to its written results."""
        outcome = item.outcome
        self.last_prediction = None
        if item.image is None:
            return outcome
        try:
            with outcome.timed("infer"):
                prediction = self.inferer(item.image[None].to(self.state.device), self.network)[0]
                outcome.details = self.inferer.report.as_dict()
            with outcome.timed("postprocess"):
                self.last_prediction = self.postprocess({"pred": prediction, "image": item.image})["pred"]
            if self.writer is not None:
                with outcome.timed("write"):
                    self.writer.write(item.study, self.last_prediction, outcome)
        except Exception as error:
            outcome.fail(error)
        return outcome


def _unchanged(data: dict[str, Any]) -> dict[str, Any]:
    return data
