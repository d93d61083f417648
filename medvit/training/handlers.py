"""Handlers that complement MONAI's: best weights, early stopping, a guard, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Events
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from torch import nn

from medvit.errors import MedvitError
from medvit.training.distributed import is_first
from medvit.training.schedule import Schedule


class BestWeights:
    """Keeps the weights with the best validation score, and stops a training that no longer improves.

    Parameters
    ----------
    network
        Network whose weights are kept, usually the moving average.
    evaluator
        Engine that validates at the end of each epoch; `None` where nothing is validated.
    names
        Names of the structures, in order of their values.
    patience
        Epochs without a better score after which the trainer stops; 0 for never.
    metric
        Name of a metric of the evaluator whose details have the shape (cases, structures).
    unit
        What that metric is called.

    Attributes
    ----------
    score, epoch, structures
        Mean over the structures of their mean over the cases in which they occur, the epoch in which it was
        reached, and the mean of each; `None`, 0 and empty before.
    cases
        Value of each structure in each case, in that epoch; (cases, structures), NaN where one has none.
    last, measured
        Mean of the last epoch, and value of each structure.
    """

    def __init__(
        self,
        network: nn.Module,
        evaluator: Any = None,
        names: Sequence[str] = (),
        patience: int = 0,
        metric: str = "val_mean_dice",
        unit: str = "Dice",
    ) -> None:
        self.unit = unit
        self.network, self.evaluator, self.metric = network, evaluator, metric
        self.names, self.patience = list(names), patience
        self.score: float | None = None
        self.last: float | None = None
        self.epoch = 0
        self.structures: dict[str, float] = {}
        self.measured: dict[str, float] = {}
        self.cases: list[list[float]] = []
        self.weights: dict[str, torch.Tensor] = {}

    def attach(self, trainer: Any) -> None:
        """Look at the score after each epoch."""
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, trainer: Any) -> None:
        """Keep the weights if they are the best, stop the trainer if the score has not improved for long."""
        details = self.evaluator.state.metric_details.get(self.metric) if self.evaluator else None
        if details is None:
            return
        values = torch.as_tensor(details).float()
        means = values.nanmean(dim=0).tolist()
        measured = {n: m for n, m in zip(self.names, means, strict=True) if not math.isnan(m)}
        mean = sum(measured.values()) / len(measured) if measured else None
        if self.update(mean, trainer.state.epoch, measured):
            self.cases = values.tolist()
        if self.patience and trainer.state.epoch - self.epoch >= self.patience:
            trainer.terminate()

    def update(self, score: float | None, epoch: int, structures: dict[str, float] | None = None) -> bool:
        """Take the present weights if their score is the best so far, or if there is none to compare.

        Returns whether they were taken.
        """
        self.last, self.measured = score, structures or {}
        if self.weights and score is not None and self.score is not None and score <= self.score:
            return False
        self.score, self.epoch, self.structures = score, epoch, structures or {}
        self.weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        return True

    def restored(self) -> nn.Module:
        """The network with the weights that were kept, in evaluation mode."""
        if self.weights:
            self.network.load_state_dict(self.weights)
        return self.network.eval()

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""
        return {
            "score": self.score, "epoch": self.epoch, "structures": self.structures, "cases": self.cases,
            "weights": self.weights,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)


class NanGuard:
    """Ends a training whose loss is not finite for many steps in a row; single such steps are skipped anyway.

    Parameters
    ----------
    patience
        Number of consecutive steps.
    """

    def __init__(self, patience: int = 20) -> None:
        self.patience, self.in_a_row = patience, 0

    def attach(self, trainer: Any) -> None:
        """Look at the loss of each step."""
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, trainer: Any) -> None:
        """Count, and raise when it is enough.

        Raises
        ------
        MedvitError
            If the loss was not finite for `patience` steps in a row.
        """
        self.in_a_row = 0 if math.isfinite(trainer.state.output["loss"]) else self.in_a_row + 1
        if self.in_a_row >= self.patience:
            raise MedvitError(
                f"the loss has not been finite for {self.in_a_row} steps (epoch {trainer.state.epoch}): "
                "train with a lower --learning-rate"
            )


class Progress:
    """One line per epoch with loss, validation Dice and remaining time; in a terminal, also a progress bar.

    Parameters
    ----------
    best
        Holder of the scores.
    schedule
        Schedule, which knows the progress of the training.
    console
        Console to print to; standard error by default.
    """

    def __init__(self, best: BestWeights, schedule: Schedule, console: Console | None = None) -> None:
        self.best, self.schedule = best, schedule
        self.console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bars = Bars(*columns, console=self.console, transient=True)
        self.losses: list[float] = []
        self.started = 0.0

    def attach(self, trainer: Any) -> None:
        """Watch a trainer; of several processes that train together, the first one prints."""
        if not is_first():
            return
        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        trainer.add_event_handler(Events.COMPLETED, self.close)

    def _start(self, trainer: Any) -> None:
        if self.console.is_terminal:
            steps = self.schedule.steps
            self.bars.add_task("training", total=steps, completed=trainer.state.iteration)
            self.bars.start()

    def _start_epoch(self) -> None:
        self.losses, self.started = [], time.perf_counter()

    def _step(self, trainer: Any) -> None:
        self.losses.append(trainer.state.output["loss"])
        for task in self.bars.task_ids:
            self.bars.update(task, completed=trainer.state.iteration)

    def _epoch(self, trainer: Any) -> None:
        epoch, now = trainer.state.epoch, time.perf_counter()
        loss = sum(self.losses) / max(len(self.losses), 1)
        done = self.schedule.fraction(trainer.state.iteration)
        left = self.schedule.elapsed * (1 - done) / max(done, 1e-9)
        of = f" of {trainer.state.max_epochs}" if self.schedule.minutes is None else ""
        self.console.print(
            f"epoch {epoch}{of}: loss {loss:.3f}, {self._scores()}"
            f"{now - self.started:.0f} s, about {duration(left)} left",
            highlight=False, soft_wrap=True,
        )  # fmt: skip

    def _scores(self) -> str:
        if self.best.last is None:
            return ""
        best = self.best
        return f"validation {best.unit} {best.last:.3f} (best {best.score:.3f} in epoch {best.epoch}), "

    def close(self) -> None:
        """Remove the bar, also after an interruption, which would leave the cursor hidden."""
        if self.bars.live.is_started:
            self.bars.stop()


def duration(seconds: float) -> str:
    """A time span in a suitable unit.

    Examples
    --------
    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
