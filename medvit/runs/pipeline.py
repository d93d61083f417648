"""The last steps of a bundle: a preprocessed study is inferred, post-processed and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from monai.data import MetaTensor
from torch import nn

from medvit.bundles.segmentation import finish, infer, unchanged
from medvit.runs.dataset import StudyItem
from medvit.studies import LoadedStudy

if TYPE_CHECKING:
    from medvit.bundles import OpenBundle
    from medvit.inference.engine import WindowEngine
    from medvit.runs.folder import StudyWriter

_EVALUATOR = "medvit.runs.StudyEvaluator"
_PARTS = ("device", "network", "inferer", "postprocessing", "writer")


@dataclass
class StudyPipeline:
    """What an evaluator does with one study; an error is noted in the study's outcome.

    Parameters
    ----------
    device
        Device on which the network runs.
    network
        Network with its weights.
    inferer
        Inferer that returns (B, 1, X, Y, Z) on the grid of the study.
    postprocessing
        Dictionary transform of the result under ``"pred"``; ``"image"`` is what the inferer saw of the study,
        ``"source"`` the image as it was read.
    writer
        Writer of the results; `None` to write nothing.
    """

    device: torch.device
    network: nn.Module
    inferer: WindowEngine
    postprocessing: Callable[[dict[str, Any]], dict[str, Any]] = unchanged
    writer: StudyWriter | None = None

    @classmethod
    def of(cls, opened: OpenBundle) -> StudyPipeline:
        """The pipeline of a bundle's evaluator.

        medvit's own evaluator is not made, since Ignite's engine, on which it is built, is slow to import.

        Raises
        ------
        MedvitError
            If a component cannot be made.
        """
        stated = opened.stated("evaluator") if "evaluator" in opened else {}
        if not isinstance(stated, dict) or stated.get("_target_") != _EVALUATOR:
            return opened.part("evaluator").pipeline
        parts = {name: opened.part(f"evaluator#{name}") for name in _PARTS if stated.get(name) is not None}
        return cls(**parts | {"device": torch.device(parts["device"])})

    def infer(self, item: StudyItem) -> MetaTensor | None:
        """The inferer's result (1, X, Y, Z); `None` if there is none; the outcome says why."""
        if item.image is None:
            return None
        try:
            with item.outcome.timed("infer"):
                prediction = infer(item.image, self.network, self.inferer, self.device)
                item.outcome.details = self.inferer.report.as_dict() | {"device": str(self.device)}
            return prediction
        except Exception as error:
            item.outcome.fail(error)
            return None

    def finish(self, item: StudyItem, prediction: MetaTensor | None) -> None:
        """Post-process and write the result of a study."""
        if prediction is None or item.image is None or not isinstance(item.study, LoadedStudy):
            return
        try:
            with item.outcome.timed("postprocess"):
                prediction = finish(item.study, item.image, prediction, self.postprocessing)
            if self.writer is not None:
                with item.outcome.timed("write"):
                    self.writer.write(item.study, prediction, item.outcome)
        except Exception as error:
            item.outcome.fail(error)
