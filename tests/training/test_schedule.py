"""The learning rate in steps and in time."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events

from medvit.training import Schedule
from medvit.training import schedule as module


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def test_it_rises_and_falls_to_nothing_over_the_steps() -> None:
    rates: list[float] = []
    schedule = Schedule(optimizer(), steps=200)
    trainer = Engine(lambda engine, batch: rates.append(schedule.optimizer.param_groups[0]["lr"]))
    schedule.attach(trainer)
    trainer.run(range(20), max_epochs=10)
    assert rates[0] < 0.05 and max(rates) == pytest.approx(0.5, rel=0.02)
    assert 3 <= rates.index(max(rates)) <= 8
    assert rates[8:] == sorted(rates[8:], reverse=True) and rates[-1] < 1e-3


def test_time_ends_the_training_with_a_last_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    rates, validated = [], []
    schedule = Schedule(optimizer(), steps=10**6, minutes=1)

    def step(engine: Engine, batch: int) -> None:
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        clock[0] += 1

    def validate(engine: Engine) -> None:
        validated.append(engine.state.iteration)
        clock[0] += 6

    trainer = Engine(step)
    schedule.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    trainer.run(range(20), max_epochs=10**6)
    # Epochs of 20 s, each validated in 6 s, and a last one that leaves those 6 s.
    assert validated == [20, 40, 42]
    assert clock[0] - 100 == 60 and rates[-1] < 0.01


def test_the_first_validation_too_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, validated = [100.0], []
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    schedule = Schedule(optimizer(), steps=10**6, minutes=1, validation=10)

    def pass_time(seconds: float) -> None:
        clock[0] += seconds

    trainer = Engine(lambda engine, batch: pass_time(1))
    schedule.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: validated.append(e.state.iteration))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: pass_time(10))
    trainer.run(range(100), max_epochs=10**6)
    assert validated == [50] and clock[0] == 160


def test_an_interrupted_training_has_the_rest_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [5.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    first = Schedule(optimizer(), steps=1, minutes=1)
    first.started = 5.0
    clock[0] += 45
    second = Schedule(optimizer(), steps=1, minutes=1)
    second.load_state_dict(first.state_dict())
    assert second.fraction(0) == pytest.approx(0.75)
