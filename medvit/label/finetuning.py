"""Fine-tuning of a bundle's network on annotated studies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ignite.engine import Events
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.metrics import DiceHelper
from monai.transforms import CenterSpatialCropd, Compose, RandShiftIntensityd
from monai.utils import set_determinism

from medvit.losses import SparseDiceCELoss
from medvit.runs import StudyEvaluator
from medvit.training import BestWeights, MixedPrecisionStep, PatchDataset, Sample

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotated:
    """A study and the labels that the annotator drew.

    Parameters
    ----------
    image
        (C, X, Y, Z), preprocessed as for inference.
    label
        (1, X, Y, Z) label values on the grid of `image`.
    truth
        (X, Y, Z) label values on the grid of the study.
    """

    image: MetaTensor
    label: torch.Tensor
    truth: np.ndarray


@dataclass(frozen=True)
class FinetuningSchedule:
    """How to train.

    Parameters
    ----------
    max_epochs
        Passes over the studies.
    patches
        Windows that are cut from each study in one pass, half of them around a labelled voxel.
    learning_rate
        Learning rate of AdamW.
    seed
        Seed of the choice of windows.
    """

    max_epochs: int = 20
    patches: int = 4
    learning_rate: float = 1e-4
    seed: int = 0


def finetune(
    evaluator: StudyEvaluator,
    training: Sequence[Annotated],
    held_out: Sequence[Annotated],
    classes: int,
    schedule: FinetuningSchedule,
) -> tuple[float | None, float | None]:
    """Train the network of `evaluator` in place; it ends with the best weights seen on `held_out`.

    Parameters
    ----------
    evaluator
        Evaluator of the bundle; its inferer measures, and says how large the windows are.
    training, held_out
        Annotated studies to learn from, and to measure on.
    classes
        Background included.

    Returns
    -------
    before, best
        Mean Dice over the structures of the held-out studies before training and of the weights that were
        taken; `None` without held-out studies, when the last weights are taken.
    """
    set_determinism(schedule.seed)
    network, device = evaluator.network, evaluator.state.device
    before = measure(evaluator, held_out, classes)
    best = BestWeights(network)
    _log.info("before training: mean Dice %s", _shown(before))
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=schedule.max_epochs,
        train_data_loader=_loader(training, evaluator, schedule),
        epoch_length=len(training),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), schedule.learning_rate),
        loss_function=SparseDiceCELoss(),
        inferer=SimpleInferer(),
        iteration_update=MixedPrecisionStep(enabled=device.type == "cuda"),
        decollate=False,
    )

    def after_epoch() -> None:
        best.update(measure(evaluator, held_out, classes), trainer.state.epoch)
        epoch, loss = trainer.state.epoch, trainer.state.output["loss"]
        _log.info(
            "epoch %d of %d: loss %.4f, mean Dice %s", epoch, schedule.max_epochs, loss, _shown(best.last)
        )

    trainer.add_event_handler(Events.EPOCH_COMPLETED, after_epoch)
    trainer.run()
    best.restored()
    return before, best.score


def measure(evaluator: StudyEvaluator, studies: Sequence[Annotated], classes: int) -> float | None:
    """Mean Dice, on the grid of each study, over the structures that were drawn in it."""
    evaluator.network.eval()
    dice = DiceHelper(include_background=False, num_classes=classes, reduction="none", get_not_nans=False)
    scores = []
    for study in studies:
        image = study.image[None].to(evaluator.state.device)
        prediction = evaluator.inferer(image, evaluator.network)
        labels = evaluator.pipeline.postprocessing({"pred": prediction[0], "image": study.image})["pred"]
        truth = torch.from_numpy(study.truth.astype(np.int64))
        score = dice(torch.as_tensor(labels)[None].cpu().long(), truth[None, None])
        scores.append(torch.as_tensor(score).flatten())
    drawn = torch.cat(scores) if scores else torch.empty(0)
    drawn = drawn[~drawn.isnan()]
    return float(drawn.mean()) if len(drawn) else None


def _loader(
    studies: Sequence[Annotated], evaluator: StudyEvaluator, schedule: FinetuningSchedule
) -> DataLoader:
    roi, slice_axis = evaluator.inferer.roi_size, getattr(evaluator.inferer, "slice_axis", None)
    window = [roi] * 3 if isinstance(roi, int) else [int(size or 1) for size in roi]
    patch = window if slice_axis is None else [*window[:slice_axis], 1, *window[slice_axis:]]
    cut = Compose(
        [CenterSpatialCropd(["image", "label"], window), RandShiftIntensityd("image", 0.05, prob=0.5)]
    )
    samples = [Sample.of(s.image.numpy(), s.label[0].numpy().astype(np.uint16)) for s in studies]
    length = schedule.max_epochs * len(studies) * schedule.patches
    windows = PatchDataset(samples, patch, length, cut, schedule.seed, slice_axis)
    return DataLoader(windows, batch_size=schedule.patches)


def _shown(score: float | None) -> str:
    return "not measured" if score is None else f"{score:.4f}"
