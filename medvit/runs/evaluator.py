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

from medvit.bundles.segmentation import finish, infer, unchanged
from medvit.inference.engine import WindowEngine
from medvit.runs.dataset import StudyItem
from medvit.runs.folder import StudyWriter
from medvit.runs.outcome import StudyOutcome
from medvit.studies import LoadedStudy


class StudyEvaluator(SupervisedEvaluator):
    """Infers, post-processes and writes studies; a failure is noted and the next study follows.

    MONAI's evaluator ends with the first exception of a batch. Here the exception belongs to its study.

    Parameters
    ----------
    device
        Device on which the network runs.
    val_data_loader
        `StudyItem`s; a loader that yields them, or a `StudyDataset` itself.
    network
        Network with its weights.
    inferer
        Inferer that returns (B, 1, X, Y, Z) on the grid of the study.
    postprocessing
        Dictionary transform of the result under ``"pred"``; ``"image"`` is what the inferer saw of the study,
        ``"source"`` the image as it was read.
    writer
        Writer of the results; `None` keeps results in memory (`last_prediction`).
    val_handlers
        Ignite handlers, as with MONAI's evaluator.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Iterable[StudyItem],
        network: nn.Module,
        inferer: WindowEngine,
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
        self.inferer: WindowEngine = inferer
        self.postprocess = postprocessing or unchanged
        self.writer = writer
        self.outcomes: list[StudyOutcome] = []
        self.last_prediction: MetaTensor | None = None

    def _iteration(self, engine: Engine, item: StudyItem) -> StudyOutcome:  # type: ignore[override]
        self.outcomes.append(self.process(item))
        self.state.output = item.outcome
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return item.outcome

    def process(self, item: StudyItem) -> StudyOutcome:
        """Take one study from its preprocessed image to its written results."""
        self.finish(item, self.infer(item))
        return item.outcome

    def infer(self, item: StudyItem) -> MetaTensor | None:
        """The inferer's result (1, X, Y, Z); `None` if there is none; the outcome says why."""
        if item.image is None:
            return None
        try:
            with item.outcome.timed("infer"):
                prediction = infer(item.image, self.network, self.inferer, self.state.device)
                item.outcome.details = self.inferer.report.as_dict() | {"device": str(self.state.device)}
            return prediction
        except Exception as error:
            item.outcome.fail(error)
            return None

    def finish(self, item: StudyItem, prediction: MetaTensor | None) -> None:
        """Post-process and write the result of a study."""
        self.last_prediction = None
        if prediction is None or item.image is None or not isinstance(item.study, LoadedStudy):
            return
        try:
            with item.outcome.timed("postprocess"):
                prediction = finish(item.study, item.image, prediction, self.postprocess)
                self.last_prediction = prediction
            if self.writer is not None:
                with item.outcome.timed("write"):
                    self.writer.write(item.study, prediction, item.outcome)
        except Exception as error:
            item.outcome.fail(error)
