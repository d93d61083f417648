"""Training and evaluation in two processes, as ``torchrun`` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medvit.bundles import find_bundle
from medvit.engines import inference_component, load_weights
from tests.phantoms import write_head

BUNDLE = find_bundle("segformer3d_brain")


def torchrun(folder: Path, *configs: str) -> str:
    """Run workflows of the bundle in two processes on made-up heads; what they logged."""
    for name in ("head_1", "head_2", "head_seg_09"):
        write_head(folder / f"{name}.nii.gz")
    files = str([str(BUNDLE.config(name)) for name in configs])
    settings = {
        "dataset_dir": folder, "output_dir": folder / "out", "num_workers": 0, "sample_shape": [32, 32, 32],
        "epochs": 1, "epoch_length": 2, "val_length": 2, "val_interval": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "monai.bundle", "run", "--config_file", files]
    command += [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    log = torchrun(tmp_path, "train", "multi_gpu_train")
    assert log.count("Epoch[1] Metrics -- val_mean_dice") == 1, "one process logs, both validate"
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 1
    load_weights(inference_component(BUNDLE.path, "network_def"), tmp_path / "out" / "model.pt")


@pytest.mark.slow
def test_two_processes_evaluate_one_network(tmp_path: Path) -> None:
    torchrun(tmp_path, "train", "evaluate", "multi_gpu_evaluate")
    raw = (tmp_path / "out" / "val_mean_dice_raw.csv").read_text().splitlines()
    assert len(raw) == 1 + 2, "each process evaluates its share of the two heads"
