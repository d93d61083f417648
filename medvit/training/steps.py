"""What MONAI's training engine lacks: mixed precision on any device, resuming, weights for bundles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointSaver, StatsHandler, TensorBoardStatsHandler
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medvit.bundles import Bundle, open_bundle
from medvit.errors import WeightsError
from medvit.studies import atomic_path
from medvit.training.distributed import is_first, world_size
from medvit.training.gradients import Gradients, clipped_gradients, half_precision

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
    return open_bundle(Bundle(Path(bundle_root))).part(name)


class TrainingLog:
    """Ignite handler that logs a training, or its validation, for people and for TensorBoard.

    Of several processes that train together, the first one logs.

    Parameters
    ----------
    output_dir
        Folder for TensorBoard's files.
    interval
        Iterations between two lines of the loss; 0 logs only the metrics of each epoch.
    """

    def __init__(self, output_dir: str | Path, interval: int = 0) -> None:
        self.output_dir = str(output_dir)
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Listen to `engine`."""
        if not is_first():
            return
        if not self.interval:
            StatsHandler(name="training", iteration_log=False).attach(engine)
            TensorBoardStatsHandler(log_dir=self.output_dir, iteration_log=False).attach(engine)
            return
        shown: dict[str, Any] = {"tag_name": "train_loss", "output_transform": lambda output: output["loss"]}
        StatsHandler(
            name="training", iteration_log=lambda _, iteration: iteration % self.interval == 0, **shown
        ).attach(engine)
        TensorBoardStatsHandler(log_dir=self.output_dir, **shown).attach(engine)


class SmallGridsInFloat32(TorchFunctionMode):
    """A context in which autocast does not apply to 3D convolutions over grids of few voxels.

    On a CPU, torch 2.13's bfloat16 weight gradient of such a convolution reads memory that nothing was
    written to (with Swin UNETR, whose deepest map of a 64x128x64 image has two voxels, half of all steps
    were lost), and with a kernel of 7 it writes beyond its own. Over grids of more than four voxels along
    each axis, and more than the kernel has, hundreds of random shapes showed neither.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.conv3d or min(args[0].shape[2:]) > max(4, *args[1].shape[2:]):
            return func(*args, **kwargs)
        exact: list[Any] = [a.float() if isinstance(a, Tensor) else a for a in args]
        with torch.autocast(args[0].device.type, enabled=False):
            return func(*exact, **kwargs)


_CERTAIN = 20.0  # logits this far apart give a loss of 0


class MixedPrecisionStep:
    """The ``iteration_update`` of a trainer: bfloat16 autocast and clipped gradients.

    A step whose gradient is not finite is taken again in float32, and left out if that is no better: one
    overflow must not end in a network of NaN. Both are logged. See
    `medvit.training.gradients`.

    Parameters
    ----------
    max_norm
        Largest norm of the gradient.
    enabled
        Whether to use autocast.
    unlabelled
        Value of unlabelled voxels in label maps, from which nothing is learned.
    """

    def __init__(self, max_norm: float = 1.0, enabled: bool = True, unlabelled: int | None = None) -> None:
        self.max_norm = max_norm
        self.enabled = enabled
        self.unlabelled = unlabelled

    def __call__(self, engine: SupervisedTrainer, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss and prediction of a batch of ``image`` and ``label``, under MONAI's keys."""
        device = engine.state.device
        image, label = batch["image"].to(device), batch["label"].to(device)
        engine.network.train()
        prediction: Any = None

        def loss_of(half: bool) -> Tensor:
            nonlocal prediction
            small_grids = SmallGridsInFloat32() if half and device.type == "cpu" else nullcontext()
            with half_precision(device, half), small_grids:
                prediction = engine.inferer(image, engine.network)
            if self.unlabelled is None:
                return engine.loss_function(prediction, label)
            return engine.loss_function(*where_labelled(prediction, label, self.unlabelled))

        found = clipped_gradients(engine.network, loss_of, self.max_norm, self.enabled)
        self._step(engine, found)
        # Deeply supervised networks give a list in training, the full resolution first.
        full = prediction[0] if isinstance(prediction, list | tuple) else prediction
        return {
            CommonKeys.IMAGE: image,
            CommonKeys.LABEL: label,
            CommonKeys.PRED: full.detach(),
            CommonKeys.LOSS: found.loss,
        }

    def _step(self, engine: SupervisedTrainer, found: Gradients) -> None:
        if found.causes:
            _log.warning(
                "iteration %d: taken in float32, as in bfloat16 gradients are not finite, first that of %s",
                engine.state.iteration,
                found.causes[0],
            )
        if found.finite:
            engine.optimizer.step()
        else:
            _log.warning("iteration %d: gradient is not finite, step left out", engine.state.iteration)


def where_labelled(prediction: Any, label: Tensor, value: int) -> tuple[Any, Tensor]:
    """Logits and labels with certain background in unlabelled voxels, so that no loss learns from them.

    Parameters
    ----------
    prediction
        (B, C, ...) logits, or several of them, the full resolution first.
    label
        (B, 1, ...).
    value
        Value of unlabelled voxels (`Manifest.to_table`).
    """
    unlabelled = label == value
    if not unlabelled.any():
        return prediction, label
    if isinstance(prediction, list | tuple):
        return [_certain(p, unlabelled) for p in prediction], label.masked_fill(unlabelled, 0)
    return _certain(prediction, unlabelled), label.masked_fill(unlabelled, 0)


def _certain(logits: Tensor, unlabelled: Tensor) -> Tensor:
    there = unlabelled
    if logits.shape[2:] != unlabelled.shape[2:]:
        there = torch.nn.functional.interpolate(unlabelled.float(), logits.shape[2:], mode="nearest") > 0
    background = logits.new_full((1, logits.shape[1], *[1] * (logits.ndim - 2)), -_CERTAIN)
    background[:, 0] = _CERTAIN
    return torch.where(there, background, logits)


def start_training(
    trainer: SupervisedTrainer,
    ema: EMAHandler,
    ckpt_dir: str | Path,
    resume: str | Path = "",
    **parts: Any,
) -> None:
    """Attach the moving average and a checkpoint after each epoch, and resume from one if it is given.

    Parameters
    ----------
    trainer
        Trainer whose dataset has an ``offset``, as `medvit.synthesis.SyntheticDataset` has.
    ema
        Moving average of the trainer's network, updated after each iteration.
    ckpt_dir
        Folder for checkpoints; the last one is kept.
    resume
        A checkpoint that the training configuration wrote; empty to start anew.
    parts
        Further contents of checkpoints, each with a ``state_dict``, such as a learning rate scheduler.

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
        **parts,
    }
    if is_first():
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
    loader.dataset.offset = trainer.state.iteration * (loader.batch_size or 1) * world_size()


def save_weights(network: nn.Module, path: str | Path) -> Path:
    """The state dict of `network` in float16, whole or not at all, as a bundle's ``models/model.pt``.

    Of several processes that train together, the first one writes.
    """
    state: dict[str, Any] = {name: _compact(value) for name, value in network.state_dict().items()}
    if is_first():
        with atomic_path(Path(path)) as partial:
            torch.save(state, partial)
    return Path(path)


def _compact(value: Tensor) -> Tensor:
    """`value` in 16 bits: floating point always, whole numbers (tables of indices) where they fit."""
    value = value.detach().cpu()
    if value.is_floating_point():
        return value.half()
    narrow = value.short()
    return narrow if torch.equal(narrow.to(value.dtype), value) else value
