"""Going on with the training of a bundle's network on annotated studies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.metrics import DiceHelper
from monai.transforms import Compose, RandCropByPosNegLabeld, RandShiftIntensityd, SpatialPadd
from monai.utils import set_determinism

from medvit.engines import MixedPrecisionStep, StudyEvaluator

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotated:
    """A study and what the annotator drew.

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
class Schedule:
    """How to train.

    Parameters
    ----------
    max_epochs
        Passes over the studies.
    patches
        Windows that are cut of each study in one pass, half of them around a labelled voxel.
    learning_rate
        Of AdamW.
    seed
        Of the windows.
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
    schedule: Schedule,
) -> tuple[float | None, float | None]:
    """Train the network of `evaluator` in place; it ends with the best weights seen on `held_out`.

    Parameters
    ----------
    evaluator
        Of the bundle; its inferer measures, and says how large the windows are.
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
    before = best = measure(evaluator, held_out, classes)
    best_state: dict[str, torch.Tensor] | None = None
    _log.info("before training: mean Dice %s", _shown(before))
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=schedule.max_epochs,
        train_data_loader=_loader(training, _roi_of(evaluator), schedule),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), schedule.learning_rate),
        loss_function=DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True),
        inferer=SimpleInferer(),
        iteration_update=MixedPrecisionStep(enabled=device.type == "cuda"),
        decollate=False,
    )

    def after_epoch() -> None:
        nonlocal best, best_state
        score = measure(evaluator, held_out, classes)
        epoch, loss = trainer.state.epoch, trainer.state.output["loss"]
        _log.info("epoch %d of %d: loss %.4f, mean Dice %s", epoch, schedule.max_epochs, loss, _shown(score))
        if best_state is None or score is None or best is None or score > best:
            best, best_state = score, {k: v.detach().clone() for k, v in network.state_dict().items()}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, after_epoch)
    trainer.run()
    if best_state is not None:
        network.load_state_dict(best_state)
    network.eval()
    return before, best


def measure(evaluator: StudyEvaluator, studies: Sequence[Annotated], classes: int) -> float | None:
    """Mean Dice, on the grid of each study, over the structures that were drawn in it."""
    evaluator.network.eval()
    dice = DiceHelper(include_background=False, num_classes=classes, reduction="none", get_not_nans=False)
    scores = []
    for study in studies:
        image = study.image[None].to(evaluator.state.device)
        prediction = evaluator.inferer(image, evaluator.network)
        labels = evaluator.postprocess({"pred": prediction[0], "image": study.image})["pred"]
        truth = torch.from_numpy(study.truth.astype(np.int64))
        score = dice(torch.as_tensor(labels)[None].cpu().long(), truth[None, None])
        scores.append(torch.as_tensor(score).flatten())
    drawn = torch.cat(scores) if scores else torch.empty(0)
    drawn = drawn[~drawn.isnan()]
    return float(drawn.mean()) if len(drawn) else None


def _loader(studies: Sequence[Annotated], roi: tuple[int, ...], schedule: Schedule) -> DataLoader:
    keys = ["image", "label"]
    cut: Any = Compose(
        [
            SpatialPadd(keys, roi),
            RandCropByPosNegLabeld(keys, "label", roi, num_samples=schedule.patches),
            RandShiftIntensityd("image", 0.05, prob=0.5),
        ]
    )
    data = [{"image": s.image, "label": s.label} for s in studies]
    return DataLoader(CacheDataset(data, cut, num_workers=0, progress=False), batch_size=1, shuffle=True)


def _roi_of(evaluator: StudyEvaluator) -> tuple[int, ...]:
    roi = evaluator.inferer.roi_size
    sizes = [roi] * 3 if isinstance(roi, int) else list(roi)
    return tuple(int(size or 1) for size in sizes)


def _shown(score: float | None) -> str:
    return "not measured" if score is None else f"{score:.4f}"
