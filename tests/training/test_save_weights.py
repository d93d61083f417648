"""Weights on disk: 16 bits, and the same network again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from medvit.networks import load_weights
from medvit.training import save_weights


class Indexed(nn.Module):
    def __init__(self, largest: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("index", torch.tensor([0, largest]))


def test_tables_of_indices_are_narrowed_where_they_fit(tmp_path: Path) -> None:
    for largest, stored in ((2196, torch.int16), (70_000, torch.int64)):
        network = Indexed(largest)
        file = save_weights(network, tmp_path / f"{largest}.pt")
        state = torch.load(file, weights_only=True)
        assert state["index"].dtype == stored and state["layer.weight"].dtype == torch.float16
        loaded = load_weights(Indexed(0), file)
        assert loaded.state_dict()["index"].tolist() == [0, largest]
        assert loaded.state_dict()["index"].dtype == torch.int64
        torch.testing.assert_close(loaded.layer.weight, network.layer.weight.half().float())
