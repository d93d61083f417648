"""The script for a GPU runs through on a CPU, in time, and what it leaves can be used."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from medvit import networks
from tests.phantoms import write_head
from workflows import on_gpu

BUNDLE = on_gpu.ROOT / "bundles" / "segformer3d_brain"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 5, 3, padding=1).eval()
    case = on_gpu.cases()[0]
    case.build, case.other, case.size = partial(networks.SegFormer3D, 1, 3), None, (1, 1, 32, 32, 32)
    monkeypatch.setattr(on_gpu, "segmenters", lambda session: {"small": (network, network)})
    monkeypatch.setattr(on_gpu, "cases", lambda: [case])


def test_checks_measures_and_trains_in_its_time(small: None, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    write_head(tmp_path / "maps" / "head.nii.gz")
    output, started = tmp_path / "out", time.monotonic()
    arguments = ["--minutes", "0.25", "--device", "cpu", "--tiny", "--output", str(output)]
    assert on_gpu.main([*arguments, "--label-maps", str(tmp_path / "maps")]) == 0
    assert time.monotonic() - started < 60
    report = (output / "report.md").read_text()
    for line in ("| small, graphs", "engine alone, 104 classes", "| SegFormer3D | bf16", "Labels agree."):
        assert line in report
    done = json.loads((output / "training.json").read_text())
    assert done["steps"] >= 1
    assert done["left_out"] == 0
    definition = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"]
    network = ConfigParser({"network": definition}).get_parsed_content("network")
    networks.load_weights(network, output / "weights.pt")


def test_labels_that_differ_are_an_error(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changes(nn.Conv3d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.bias.data += torch.linspace(-0.4, 0.4, 5)
            return super().forward(image)

    network = Changes(1, 5, 3, padding=1).eval()
    monkeypatch.setattr(on_gpu, "segmenters", lambda session: {"changes": (network, network)})
    arguments = ["--minutes", "0.1", "--device", "cpu", "--tiny", "--output", str(tmp_path)]
    assert on_gpu.main([*arguments, "--skip", "inference", "networks"]) == 1


def test_needs_few_packages() -> None:
    """Neither readers of other formats, nor ignite, nor what serves the command."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"SimpleITK", "pydicom", "highdicom", "ignite", "typer", "rich", "yaml",
                                  "lazy_loader", "skimage", "matplotlib", "jinja2", "pydantic"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from workflows import on_gpu
from medvit.training.synthetic import train_on_synthetic_heads
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=on_gpu.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-800:]
