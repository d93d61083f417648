"""How a published training starts, and what it keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from medvit.errors import WeightsError
from medvit.networks import RAT, RegionInput, SegFormer3D
from medvit.training.recipes import (
    keep_best,
    start_from,
)


def test_weights_to_start_from_are_told_apart(tmp_path: Path) -> None:
    options: Any = {"embed_dims": [8] * 4, "num_heads": [1] * 4, "depths": [1] * 4, "decoder_dim": 8}
    ours = SegFormer3D(1, 2, **options)
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    loaded = start_from(SegFormer3D(1, 2, **options), tmp_path / "ours.pt")
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, ours.state_dict()[name])
    with pytest.raises(WeightsError):
        start_from(SegFormer3D(1, 3, **options), tmp_path / "ours.pt")
    network = SegFormer3D(1, 2, **options)
    assert start_from(network) is network
    restorer = RegionInput(RAT(1, width=8, num_blocks=1))
    with pytest.raises(WeightsError):  # asked of RAT itself, in its authors' layout
        start_from(restorer, tmp_path / "ours.pt")


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    network, path = nn.Linear(1, 1, bias=False), tmp_path / "best.pt"
    evaluator: Any = Engine(lambda engine, batch: None)
    keep_best(evaluator, network, path)
    for value, best in ((1.0, True), (2.0, False), (3.0, True)):
        nn.init.constant_(network.weight, value)
        evaluator.state.best_metric_epoch = 1 if best else 7
        evaluator.run([0])
        kept = torch.load(path, weights_only=True)["weight"].item()
        assert kept == (value if best else 1.0)


def test_configurations_find_the_recipes_before_anything_else_imported_them() -> None:
    subprocess.run([sys.executable, "-c", "import medvit.training as t; t.recipes.case_list"], check=True)
