"""Training and evaluation in two processes, as ``torchrun`` starts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvit.bundles import find_bundle, installed_bundles
from medvit.networks import load_weights
from medvit.training import inference_component
from tests.phantoms import write_head
from tests.processes import run_in_two_processes

FIRST = "segformer3d_brain"
# Bundles that learn from label maps go the same road: one by default, the others where there is time. Those
# that learn from cases, as `medvit train` makes them, are tried in tests/training.
SYNTHETIC = [
    b.name
    for b in installed_bundles()
    if not b.is_quantised and "val_length" in json.loads(b.config("train").read_text())
]
every_bundle = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != FIRST)) for name in SYNTHETIC]
)


def torchrun(name: str, folder: Path, *configs: str) -> str:
    """Run workflows of a bundle in two processes on made-up heads; what they logged."""
    bundle = find_bundle(name)
    for head in ("head_1", "head_2", "head_seg_09"):
        write_head(folder / f"{head}.nii.gz")
    files = str([str(bundle.config(config)) for config in configs])
    settings = {
        "dataset_dir": folder, "output_dir": folder / "out", "num_workers": 0, "epochs": 1, "epoch_length": 2,
        "val_length": 2, "val_interval": 1,
    }  # fmt: skip
    if name == FIRST:
        settings["sample_shape"] = [32, 32, 32]
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return run_in_two_processes(["--config_file", files, *flags], folder / "log.txt")


@every_bundle
def test_two_processes_train_one_network(name: str, tmp_path: Path) -> None:
    log = torchrun(name, tmp_path, "train", "multi_gpu_train")
    assert log.count("Epoch[1] Metrics -- val_") == 1, "one process logs, both validate"
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 1
    load_weights(inference_component(find_bundle(name).path, "network_def"), tmp_path / "out" / "model.pt")


@pytest.mark.slow
def test_two_processes_evaluate_one_network(tmp_path: Path) -> None:
    torchrun(FIRST, tmp_path, "train", "evaluate", "multi_gpu_evaluate")
    raw = (tmp_path / "out" / "val_mean_dice_raw.csv").read_text().splitlines()
    assert len(raw) == 1 + 2, "each process evaluates its share of the two heads"
