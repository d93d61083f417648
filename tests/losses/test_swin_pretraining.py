"""The loss of Swin UNETR's pre-training against the authors' numbers."""

from __future__ import annotations

import json

import pytest
import torch

from medvit.losses import SwinPretrainingLoss
from tests.networks.goldens import FOLDER
from tests.networks.parity_rule import make_input


def test_equals_the_authors_numbers() -> None:
    manifest = json.loads((FOLDER / "swin_unetr_ssl_loss.json").read_text())
    given = {
        name: make_input(spec["seed_name"], tuple(spec["shape"])).double()
        for name, spec in manifest["inputs"].items()
    }
    found = SwinPretrainingLoss(manifest["config"]["temperature"])(
        given["rotation"],
        torch.tensor(manifest["fixed"]["target rotations"]),
        given["contrastive_1"],
        given["contrastive_2"],
        given["reconstruction"],
        given["target"],
    )
    values = manifest["values"]
    wanted = ("total", "rotation cross entropy", "contrastive", "reconstruction L1")
    for ours, name in zip(found, wanted, strict=True):
        assert float(ours) == pytest.approx(values[name], rel=1e-6), name
