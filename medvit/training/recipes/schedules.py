"""Learning rates as functions of the epoch, for a handler that steps after every iteration."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def poly_by_epoch(optimizer: Optimizer, epochs: int, epoch_length: int, power: float = 0.9) -> LambdaLR:
    """``(1 - epoch / epochs) ** power`` times the base rate, as nnU-Net decays it.

    Parameters
    ----------
    optimizer
        Whose rates are the base rates.
    epochs, epoch_length
        Epochs of the training, and iterations of an epoch.
    power
        Exponent of the decay.

    References
    ----------
    Isensee et al.: nnU-Net, a self-configuring method, Nature Methods 2021.
    """
    return _by_epoch(optimizer, epoch_length, lambda epoch: max(1 - epoch / epochs, 0.0) ** power)


def warmup_cosine(optimizer: Optimizer, warmup: int, epochs: int, epoch_length: int) -> LambdaLR:
    """From 0 in a straight line to the base rate at epoch ``warmup - 1``, then down to 0 as half a cosine.

    The first epoch runs at rate 0, as published.

    Parameters
    ----------
    optimizer
        Whose rates are the base rates.
    warmup, epochs
        Epochs of the rise, and of the whole training.
    epoch_length
        Iterations of an epoch.

    References
    ----------
    Swin UNETR's published trainings (BTCV and BraTS 2021).
    """

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return epoch / max(warmup - 1, 1)
        share = min((epoch - warmup) / max(epochs - warmup, 1), 1.0)
        return (1 + math.cos(math.pi * share)) / 2

    return _by_epoch(optimizer, epoch_length, factor)


def warmup_restarts(
    optimizer: Optimizer, warmup: int, period: int, floor: float, epoch_length: int
) -> LambdaLR:
    """``(epoch + 1) / warmup`` of the base rate, then half cosines down to a floor that start over.

    Parameters
    ----------
    optimizer
        Whose first rate is the base rate.
    warmup, period
        Epochs of the rise, and of each cosine.
    floor
        Least learning rate.
    epoch_length
        Iterations of an epoch.

    References
    ----------
    SegFormer3D's published BraTS 2017 configuration; Loshchilov, Hutter: SGDR, ICLR 2017.
    """
    least = floor / optimizer.param_groups[0]["lr"]

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / warmup
        turn = math.pi * ((epoch - warmup) % period) / period
        return least + (1 - least) * (1 + math.cos(turn)) / 2

    return _by_epoch(optimizer, epoch_length, factor)


def _by_epoch(optimizer: Optimizer, epoch_length: int, factor: Callable[[int], float]) -> LambdaLR:
    return LambdaLR(optimizer, lambda iteration: factor(iteration // epoch_length))
