"""The backend is left to measurements that the bundle's metadata hold, and to nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medvit.bundles import execution_for, find_bundle, open_bundle
from medvit.inference import backends
from medvit.runs.options import execution_settings

GOOD = {"voxels_differing": 1e-6, "logits_differing": 1e-5, "seconds": 1.0, "torch_seconds": 1.5}


def bundle_with(row: dict | None, folder: Path) -> str:
    (folder / "configs").mkdir(parents=True)
    facts = {} if row is None else {"backends": {"openvino": row}}
    (folder / "configs" / "metadata.json").write_text(json.dumps({"medvit": facts}))
    return str(folder)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GOOD, "openvino"),
        (None, "torch"),
        (GOOD | {"seconds": 1.5}, "torch"),
        (GOOD | {"voxels_differing": 2e-5}, "torch"),
        (GOOD | {"logits_differing": 2e-4}, "torch"),
    ],
)
def test_openvino_is_taken_where_it_is_right_and_quicker(
    row: dict | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = bundle_with(row, tmp_path / "bundle")
    assert execution_for(root, torch.device("cpu")).backend == expected
    assert execution_for(root, torch.device("cuda")).backend == "torch"
    monkeypatch.setattr(backends, "installed", lambda backend: False)
    assert execution_for(root, torch.device("cpu"), amp="bf16").amp == "bf16"
    assert execution_for(root, torch.device("cpu")).backend == "torch"


def test_auto_is_settled_by_the_bundle_and_the_record_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    brain = find_bundle("segformer3d_brain")
    for row, expected in ((GOOD, "openvino"), (GOOD | {"seconds": 9.0}, "torch")):
        monkeypatch.setattr(type(brain), "facts", {**brain.facts, "backends": {"openvino": row}})
        opened = open_bundle(
            brain, input=[], device="$torch.device('cpu')", **execution_settings(backend="auto")
        )
        assert opened.part("inferer").execution.backend == expected
        assert opened.part("writer").settings["backend"] == expected
