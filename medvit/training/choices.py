"""What the user chooses of a training, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medvit.errors import MedvitError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Choices:
    """Choices of the user; `None` means that the value is taken from the data.

    Parameters
    ----------
    spacing
        Spacing in mm: left-right, back-front, feet-head.
    patch_size
        Voxels of a window, in the same order.
    epochs, epoch_length
        Passes, and optimiser steps in each; by default 100 passes, for a restorer 20.
    minutes
        Time that the training takes, instead of `epochs`; the learning rate then follows the clock.
    batch_size
        Windows of a step.
    learning_rate
        Highest learning rate of AdamW.
    val_fraction, seed
        Share of patients kept apart, and seed of all random numbers.
    folds, fold
        Number of parts into which the patients are divided, and the one for validation. With ``folds`` and
        no ``fold``, each is trained in turn; 0 for none.
    patience
        Epochs without a better validation Dice after which training stops; 0 to continue to the end, as
        always with `minutes`.
    mirror
        Whether windows are mirrored left to right, with the structures named so swapped.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    """

    spacing: Triple | None = None
    patch_size: tuple[int, int, int] | None = None
    epochs: int | None = None
    epoch_length: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    learning_rate: float = 1e-3
    val_fraction: float = 0.2
    seed: int = 0
    folds: int = 0
    fold: int | None = None
    patience: int = 20
    mirror: bool | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        numbers = {
            "--spacing": self.spacing, "--patch-size": self.patch_size, "--epochs": self.epochs,
            "--epoch-length": self.epoch_length, "--batch-size": self.batch_size,
            "--learning-rate": self.learning_rate, "--minutes": self.minutes,
        }  # fmt: skip
        check_positive(numbers)
        if self.minutes is not None and self.epochs is not None:
            raise MedvitError("--minutes and --epochs both say when the training ends; give one of them")
        if self.fold is not None and not self.folds:
            raise MedvitError("--fold is the number of one of several --folds")
        if self.folds == 1 or (self.folds and not 0 <= (self.fold or 0) < self.folds):
            given = f"--folds {self.folds}" + ("" if self.fold is None else f" --fold {self.fold}")
            raise MedvitError(f"{given}: two or more folds are numbered from 0")
        if not 0 <= self.val_fraction < 1 or self.patience < 0:
            raise MedvitError("--val-fraction must lie in [0, 1), and --patience must be 0 or more")

    @property
    def torch_device(self) -> torch.device:
        """The device, chosen if it is ``"auto"``.

        Raises
        ------
        MedvitError
            If the device is not available.
        """
        return device_named(self.device)


def check_positive(options: Mapping[str, float | Sequence[float] | None]) -> None:
    """Refuse options of which a given number is not greater than 0.

    Raises
    ------
    MedvitError
        With the name of the option.
    """
    for name, value in options.items():
        if value is not None and not np.all(np.asarray(value) > 0):
            raise MedvitError(f"{name} must be greater than 0, not {value}")


def device_named(name: str) -> torch.device:
    """The device of a name; for ``"auto"`` a GPU where there is one.

    Raises
    ------
    MedvitError
        If the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise MedvitError(f"--device {name}: {str(error).splitlines()[0]}") from None
