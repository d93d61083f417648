"""Published files: how state dicts are nested in them, and what may lie beside the weights."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from medvit.errors import WeightsError
from medvit.networks import HAT, read_checkpoint
from tests.networks.test_super_resolution import LIGHT_HAT

ONE, OTHER = {"a.weight": torch.zeros(2)}, {"a.weight": torch.ones(2)}


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ({"params": OTHER}, 1),  # HAT, CRAFT, CATANet, DRSformer
        ({"params": ONE, "params_ema": OTHER}, 1),
        ({"state_dict_ema": OTHER, "state_dict": ONE, "epoch": 3}, 1),  # CSwin
        ({"model": {"module.a.weight": OTHER["a.weight"]}}, 1),
    ],
)
def test_the_state_dict_is_found_and_averaged_weights_come_first(content: Any, value: float) -> None:
    assert read_checkpoint(content)["a.weight"].tolist() == [value] * 2


def test_a_published_file_of_a_super_resolution_network_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published, own = HAT(**LIGHT_HAT), HAT(**LIGHT_HAT)
    torch.save({"params_ema": published.state_dict()}, tmp_path / "HAT.pth")
    assert own.load_published(tmp_path / "HAT.pth").matched == len(own.state_dict())
    assert torch.equal(own.conv_first.weight, published.conv_first.weight)


def test_the_arguments_of_a_command_may_lie_beside_the_weights_but_no_code(tmp_path: Path) -> None:
    arguments = argparse.Namespace(lr=0.1, data=["a"])
    torch.save({"model": OTHER, "args": arguments, "epoch": 3}, tmp_path / "mae.pth")
    assert read_checkpoint(tmp_path / "mae.pth")["a.weight"].tolist() == [1, 1]
    torch.save({"model": OTHER, "args": Fraction(1, 3)}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="does not open pickled objects"):
        read_checkpoint(tmp_path / "code.pth")
