"""What MONAI's training engine lacks: mixed precision on any device, resuming, weights for bundles."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointSaver
from monai.utils.enums import CommonKeys
from torch import nn

from medvit.data import atomic_path
from medvit.errors import WeightsError

_log = logging.getLogger(__name__)


def inference_component(bundle_root: str | Path, name: str) -> Any:
    """A component of a bundle's inference configuration, so that training and inference share one definition.

    Parameters
    ----------
    bundle_root
        Folder of the bundle.
    name
        Identifier, such as ``"network_def"``.
    """
    parser = ConfigParser()
    parser.read_config(str(Path(bundle_root) / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle_root)
    return parser.get_parsed_content(name)


class MixedPrecisionStep:
    """The ``iteration_update`` of a trainer: bfloat16 autocast and clipped gradients.

    A step whose gradient is not finite is left out and logged: one overflow must not end in a network of NaN.

    Parameters
    ----------
    max_norm
        Largest norm of the gradient.
    enabled
        Whether to use autocast.
    """

    def __init__(self, max_norm: float = 1.0, enabled: bool = True) -> None:
        self.max_norm = max_norm
        self.enabled = enabled

    def __call__(self, engine: SupervisedTrainer, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss and prediction of a batch of ``image`` and ``label``, under MONAI's keys."""
        device = engine.state.device
        image, label = batch["image"].to(device), batch["label"].to(device)
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.enabled):
            prediction = engine.inferer(image, engine.network)
        loss = engine.loss_function(prediction, label)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_norm)
        if torch.isfinite(norm):
            engine.optimizer.step()
        else:
            _log.warning("iteration %d: gradient is not finite, step left out", engine.state.iteration)
        return {
            CommonKeys.IMAGE: image,
            CommonKeys.LABEL: label,
            CommonKeys.PRED: prediction.detach(),
            CommonKeys.LOSS: loss.item(),
        }


def start_training(
    trainer: SupervisedTrainer, ema: EMAHandler, ckpt_dir: str | Path, resume: str | Path = ""
) -> None:
    """Attach the moving average and a checkpoint after each epoch, and go on from one where it is given.

    Parameters
    ----------
    trainer
        Its dataset is a `medvit.synthesis.SyntheticDataset`.
    ema
        Averages the trainer's network after each iteration.
    ckpt_dir
        Where checkpoints go; the last one is kept.
    resume
        A checkpoint that the training configuration wrote; empty to start anew.

    Raises
    ------
    WeightsError
        If the checkpoint does not exist.
    """
    ema.attach(trainer, event=Events.ITERATION_COMPLETED)
    state: dict[str, Any] = {
        "network": getattr(trainer.network, "module", trainer.network),
        "ema": ema.ema_model,
        "optimizer": trainer.optimizer,
        "trainer": trainer,
    }
    CheckpointSaver(str(ckpt_dir), state, save_interval=1, n_saved=1).attach(trainer)
    if not resume:
        return
    if not Path(resume).is_file():
        raise WeightsError(f"{resume}: no such checkpoint to resume from")
    checkpoint = torch.load(resume, map_location=trainer.state.device, weights_only=True)
    epochs = trainer.state.max_epochs
    for name, part in state.items():
        part.load_state_dict(checkpoint[name])
    trainer.state.max_epochs = epochs
    loader: Any = trainer.data_loader
    loader.dataset.offset = trainer.state.iteration * loader.batch_size


def save_weights(network: nn.Module, path: str | Path) -> Path:
    """The state dict of `network` in float16, whole or not at all, as a bundle's ``models/model.pt``."""
    state: dict[str, Any] = {
        name: value.detach().cpu().half() if value.is_floating_point() else value.cpu()
        for name, value in network.state_dict().items()
    }
    with atomic_path(Path(path)) as partial:
        torch.save(state, partial)
    return Path(path)
