"""The learning rate over a training, in steps or in time."""

from __future__ import annotations

import math
import time
from typing import Any

from torch.optim import Optimizer

WARM_UP = 0.03  # share of the training in which the learning rate rises


def warm_cosine(fraction: float, warm_up: float = WARM_UP) -> float:
    """Learning rate at a fraction of a training as a share of the highest: a rise, then a cosine to 0.

    Examples
    --------
    >>> [round(warm_cosine(fraction), 2) for fraction in (0, 0.03, 0.5, 1)]
    [0.03, 1.0, 0.5, 0.0]
    """
    return min(1.0, (fraction + 1e-3) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * min(fraction, 1.0)))


class Schedule:
    """Learning rate that rises for 3 % of the training and then falls to 0 along a cosine.

    With `minutes` the training ends in that time, validation included, whatever speed the machine has at
    any moment; the epoch that is then under way is cut short and validated.

    Parameters
    ----------
    optimizer
        Its present learning rate is the highest.
    steps
        Optimiser steps of the whole training, where it is not ended by time.
    minutes
        Time for the whole training.
    validation
        Seconds to keep for a validation, until the first one has shown how long one takes.
    """

    def __init__(
        self, optimizer: Optimizer, steps: int, minutes: float | None = None, validation: float = 0
    ) -> None:
        self.optimizer, self.steps, self.minutes = optimizer, steps, minutes
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]
        self.validation = validation
        self.spent = self.started = self.stepped = 0.0

    def attach(self, trainer: Any) -> None:
        """Set the learning rate before each step."""
        # Imported here, as trainings without Ignite take their learning rate from this module.
        from ignite.engine import Events

        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_STARTED, self._set)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_epoch_in_time)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_ended)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._validated)

    def fraction(self, steps: int) -> float:
        """How much of the training is done, 0 to 1."""
        if self.minutes is None:
            return min(steps / max(self.steps, 1), 1.0)
        return min(self.elapsed / max(60 * self.minutes - self.validation, 1e-9), 1.0)

    def _agreed(self, steps: int) -> float:
        """`fraction` by the clock of the first of several processes, which must end with the same step."""
        import ignite.distributed as idist

        fraction = self.fraction(steps)
        if idist.get_world_size() == 1:
            return fraction
        return float(idist.broadcast(fraction, src=0))  # type: ignore[arg-type]

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.spent + (time.perf_counter() - self.started if self.started else 0.0)

    def _start(self) -> None:
        self.started = time.perf_counter()

    def _set(self, trainer: Any) -> None:
        # Ignite has counted the step that begins.
        share = warm_cosine(self._agreed(trainer.state.iteration - 1))
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = share * highest

    def _end_epoch_in_time(self, trainer: Any) -> None:
        self.stepped = time.perf_counter()
        if self.minutes is not None and self._agreed(trainer.state.iteration) >= 1:
            trainer.terminate_epoch()

    def _epoch_ended(self, trainer: Any) -> None:
        if self.minutes is not None and self._agreed(trainer.state.iteration) >= 1:
            trainer.terminate()

    def _validated(self) -> None:
        if self.stepped:
            self.validation = time.perf_counter() - self.stepped

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""
        return {"spent": self.elapsed, "validation": self.validation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.spent, self.validation = state["spent"], state["validation"]
