"""Weights of our own: every entry fits, in any floating precision, or nothing is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from medvit.errors import WeightsError
from medvit.networks import load_weights


def test_half_precision_fills_a_network_of_float32(tmp_path: Path) -> None:
    source, target = nn.Linear(2, 3), nn.Linear(2, 3).train()
    torch.save({name: value.half() for name, value in source.state_dict().items()}, tmp_path / "a.pt")
    loaded = load_weights(target, tmp_path / "a.pt")
    assert loaded is target and not loaded.training and loaded.weight.dtype == torch.float32
    assert torch.equal(loaded.weight, source.weight.half().float())


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("bias"),
        lambda state: state.update(more=torch.zeros(1)),
        lambda state: state.update(weight=torch.zeros(3, 3)),
    ],
)
def test_what_does_not_fit_is_refused_by_its_file_and_changes_nothing(change, tmp_path: Path) -> None:
    state = nn.Linear(2, 3).state_dict()
    change(state)
    torch.save(state, tmp_path / "odd.pt")
    target = nn.Linear(2, 3)
    before = target.weight.detach().clone()
    with pytest.raises(WeightsError, match=r"odd\.pt"):
        load_weights(target, tmp_path / "odd.pt")
    assert torch.equal(target.weight, before)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pt"):
        load_weights(nn.Linear(1, 1), tmp_path / "none.pt")
