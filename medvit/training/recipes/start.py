"""How a published training starts and what it keeps: weights to begin with, no averaging, the best epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch import nn

from medvit.networks import load_weights, read_checkpoint
from medvit.training import save_weights
from medvit.training.encoder_file import load_encoder, read_encoder
from medvit.training.network import readout_of


def start_from(network: Any, checkpoint: str | Path = "") -> nn.Module:
    """`network`, at random or filled.

    Parameters
    ----------
    network
        One of `medvit.networks`.
    checkpoint
        Weights in medvit's layout or in that of the network's authors, told apart by their names; or the
        ImageNet weights of a vision transformer (``.npz``) or of a CSwin backbone, of which TransUNet and
        CSwinUNet take what they share; or an encoder from ``medvit pretrain`` (``.safetensors``), which fills
        all but the readout. Empty for random weights.

    Raises
    ------
    WeightsError
        If they do not fit.
    """
    if not checkpoint:
        return network
    if Path(checkpoint).suffix == ".npz":
        network.load_npz(checkpoint)
    elif Path(checkpoint).suffix == ".safetensors":
        header = read_encoder(checkpoint)[1]
        readout = readout_of(header.network, int(header.network["in_channels"]), header.window)
        load_encoder(network, checkpoint, readout=readout)
    elif set(given := read_checkpoint(checkpoint)) == set(network.state_dict()):
        load_weights(network, checkpoint)
    elif (
        hasattr(network, "load_backbone") and "merge1.conv.weight" in given and "norm_up.weight" not in given
    ):
        network.load_backbone(given)
    else:
        # A network that takes its region map as a channel wraps the published one.
        getattr(network, "network", network).load_published(checkpoint)
    return network


class Unaveraged:
    """Stands in a configuration where the moving average of the weights does: the network itself.

    Parameters
    ----------
    model
        The network in training.
    """

    def __init__(self, model: nn.Module) -> None:
        self.ema_model = model

    def attach(self, engine: Engine, **options: Any) -> None:
        """There is nothing to average."""


def keep_best(evaluator: SupervisedEvaluator, network: nn.Module, path: str | Path) -> None:
    """Save the weights of `network` whenever a validation gives the best key metric so far.

    Parameters
    ----------
    evaluator
        Validates `network` after some epochs of its training.
    network
        The network in training.
    path
        Where the weights go, in float16.
    """

    def save(engine: Engine) -> None:
        if engine.state.best_metric_epoch == engine.state.epoch:  # type: ignore[attr-defined]
            save_weights(network, path)

    evaluator.add_event_handler(Events.EPOCH_COMPLETED, save)
