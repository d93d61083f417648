"""Choices of a training: those that contradict each other or mean nothing are refused with their flag."""

from __future__ import annotations

import pytest
import torch

from medvit.errors import MedvitError
from medvit.training import Choices
from medvit.training.choices import device_named


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"spacing": (1, -1, 1)},
        {"val_fraction": 1.0},
        {"learning_rate": float("nan")},
        {"minutes": 0},
        {"minutes": 5, "epochs": 3},
        {"folds": 1},
        {"folds": 3, "fold": 3},
        {"fold": 0},
        {"device": "abacus"},
    ],
)
def test_choices_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(MedvitError, match="--"):
        _ = Choices(**wrong).torch_device


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"spacing": (1, 0, 1)}, r"--spacing must be greater than 0, not \(1, 0, 1\)"),
        ({"learning_rate": float("nan")}, "--learning-rate must be greater than 0, not nan"),
        ({"minutes": 5, "epochs": 3}, "--minutes and --epochs both say when the training ends"),
        ({"fold": 1}, "--fold is the number of one of several --folds"),
        ({"folds": 5, "fold": 5}, "--folds 5 --fold 5: two or more folds are numbered from 0"),
        ({"folds": 1}, "--folds 1: two or more folds"),
        ({"val_fraction": 1.0}, r"--val-fraction must lie in \[0, 1\)"),
    ],
)
def test_the_sentence_names_the_flag(choices: dict, said: str) -> None:
    with pytest.raises(MedvitError, match=said):
        Choices(**choices)


def test_what_makes_sense_is_taken() -> None:
    chosen = Choices(folds=5, fold=4, minutes=0.5, val_fraction=0.0, patience=0)
    assert (chosen.folds, chosen.fold, chosen.epochs) == (5, 4, None)
    assert Choices(folds=2).fold is None


def test_a_device_by_name() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(MedvitError, match=r"--device toaster: .*toaster"):
        device_named("toaster")
