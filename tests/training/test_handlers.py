"""Best weights, early stopping, the guard against losses that are not finite, and the line of an epoch."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from medvit.errors import MedvitError
from medvit.training.handlers import BestWeights, NanGuard, Progress, duration

NAN = float("nan")


class Trainer:
    """As much of an engine as the handlers read."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(epoch=0, iteration=0, max_epochs=9, output={"loss": 0.0})
        self.ended = False

    def terminate(self) -> None:
        self.ended = True


def after_epoch(best: BestWeights, trainer: Trainer, network: nn.Linear, weight: float, dice: Any) -> None:
    """An epoch that leaves the network with this weight and the validation with these scores."""
    trainer.state.epoch += 1
    nn.init.constant_(network.weight, weight)
    best.evaluator = SimpleNamespace(state=SimpleNamespace(metric_details={"val_mean_dice": dice}))
    best(trainer)


def test_the_best_epoch_is_kept_by_the_mean_over_structures() -> None:
    network, trainer = nn.Linear(1, 1), Trainer()
    best = BestWeights(network, names=["a", "b", "c"])
    # Structure a occurs in one case only and c in none: (0.9 + 0.5) / 2.
    after_epoch(best, trainer, network, 1.0, torch.tensor([[0.9, 0.4, NAN], [NAN, 0.6, NAN]]))
    assert best.score == pytest.approx(0.7)
    assert best.structures == pytest.approx({"a": 0.9, "b": 0.5})
    after_epoch(best, trainer, network, 2.0, torch.tensor([[0.5, 0.5, NAN]]))
    assert (best.epoch, best.last) == (1, pytest.approx(0.5)) and best.score == pytest.approx(0.7)
    after_epoch(best, trainer, network, 3.0, torch.tensor([[0.8, 0.8, NAN]]))
    after_epoch(best, trainer, network, 4.0, torch.tensor([[0.8, 0.8, NAN]]))
    # Of equal scores the first one stays.
    assert best.epoch == 3 and best.cases == [pytest.approx([0.8, 0.8, NAN], nan_ok=True)]
    restored = best.restored()
    assert not restored.training and float(network.weight) == 3.0


def test_training_stops_when_the_score_has_not_improved_for_long() -> None:
    network, trainer = nn.Linear(1, 1), Trainer()
    best = BestWeights(network, names=["a"], patience=2)
    after_epoch(best, trainer, network, 1.0, torch.tensor([[0.5]]))
    after_epoch(best, trainer, network, 1.0, torch.tensor([[0.4]]))
    assert not trainer.ended
    after_epoch(best, trainer, network, 1.0, torch.tensor([[0.5]]))
    assert trainer.ended


def test_without_a_validation_the_last_weights_are_kept() -> None:
    network = nn.Linear(1, 1)
    best = BestWeights(network)
    for epoch, weight in ((1, 1.0), (2, 2.0)):
        nn.init.constant_(network.weight, weight)
        assert best.update(None, epoch)
    nn.init.constant_(network.weight, 3.0)
    assert float(best.restored().weight) == 2.0  # type: ignore[arg-type]


def test_a_resumed_training_knows_its_best_epoch() -> None:
    network = nn.Linear(1, 1)
    best = BestWeights(network)
    best.update(0.8, 5, {"a": 0.8})
    resumed = BestWeights(network)
    resumed.load_state_dict(best.state_dict())
    assert not resumed.update(0.7, 6) and (resumed.score, resumed.epoch) == (0.8, 5)


def test_only_losses_in_a_row_end_a_training() -> None:
    guard, trainer = NanGuard(patience=3), Trainer()
    for loss in (NAN, float("inf"), 1.0, NAN, NAN):
        trainer.state.output["loss"] = loss
        guard(trainer)
    with pytest.raises(MedvitError, match=r"not been finite for 3 steps .*lower --learning-rate"):
        guard(trainer)


def test_an_epoch_is_one_line_with_its_mean_loss_and_the_time_that_is_left() -> None:
    text, trainer, best = io.StringIO(), Trainer(), BestWeights(nn.Linear(1, 1))
    best.update(0.8, 1)
    best.last = 0.75
    schedule = SimpleNamespace(minutes=None, elapsed=50.0, steps=4, fraction=lambda steps: steps / 4)
    progress = Progress(best, schedule, Console(file=text, width=40))  # type: ignore[arg-type]
    progress._start_epoch()
    trainer.state.epoch = 2
    for trainer.state.iteration, loss in ((1, 1.0), (2, 0.5)):
        trainer.state.output["loss"] = loss
        progress._step(trainer)
    progress._epoch(trainer)
    # Half of the training took 50 s.
    expected = (
        "epoch 2 of 9: loss 0.750, validation Dice 0.750 (best 0.800 in epoch 1), 0 s, about 50 s left\n"
    )
    assert text.getvalue() == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99.4, "99 s"), (100, "2 min"), (5940, "99 min"), (6000, "1.7 h"), (90000, "25.0 h")],
)
def test_a_duration_has_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
