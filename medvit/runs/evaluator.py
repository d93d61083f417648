"""The evaluator of a bundle's configuration, which takes studies one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from torch import nn

from medvit.bundles.segmentation import unchanged
from medvit.inference.engine import WindowEngine
from medvit.runs.dataset import StudyItem
from medvit.runs.folder import StudyWriter
from medvit.runs.outcome import StudyOutcome
from medvit.runs.pipeline import StudyPipeline


class StudyEvaluator(SupervisedEvaluator):
    """Infers, post-processes and writes studies; a failure is noted and the next study follows.

    MONAI's evaluator ends with the first exception of a batch. Here the exception belongs to its study.

    Parameters
    ----------
    device, network, inferer, postprocessing, writer
        Same as in `medvit.runs.StudyPipeline`.
    val_data_loader
        `StudyItem`s; a loader that yields them, or a `StudyDataset` itself.
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
        self.pipeline = StudyPipeline(
            self.state.device, network, inferer, postprocessing or unchanged, writer
        )

    def _iteration(self, engine: Engine, item: StudyItem) -> StudyOutcome:  # type: ignore[override]
        self.pipeline.finish(item, self.pipeline.infer(item))
        self.state.output = item.outcome
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return item.outcome
