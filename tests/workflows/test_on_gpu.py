"""The script for a GPU runs through on a CPU, in time, and what it leaves can be used."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from medvit import networks
from tests.phantoms import write_head
from tests.processes import WITHOUT_COLLECTOR
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


def test_checks_measures_and_trains_in_its_time(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, given = on_gpu.train_on_synthetic_heads, []

    def briefly(*arguments: Any, seconds: float, **options: Any) -> dict[str, Any]:
        given.append(seconds)
        return train(*arguments, seconds=min(seconds, 1.0), **options)

    monkeypatch.setattr(on_gpu, "train_on_synthetic_heads", briefly)
    (tmp_path / "maps").mkdir()
    write_head(tmp_path / "maps" / "head.nii.gz")
    output, started = tmp_path / "out", time.monotonic()
    arguments = ["--minutes", "2", "--device", "cpu", "--tiny", "--output", str(output)]
    arguments += ["--label-maps", str(tmp_path / "maps"), "--skip", "files", "step"]
    assert on_gpu.main(arguments) == 0
    assert time.monotonic() - started < 150
    assert given[0] < 120, "what measuring left of the two minutes"
    report = (output / "report.md").read_text()
    lines = ["| small, graphs", "| SegFormer3D | bf16", "Labels agree.", "not measured |"]
    for line in [*lines, "| engine alone, 104 classes, float32, 4 at once: time | 1.0 |"]:
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
    assert on_gpu.main([*arguments, "--skip", "inference", "files", "step", "networks"]) == 1


def test_needs_five_packages_and_what_they_need(tmp_path: Path) -> None:
    """Labels, a bundle from file to file and a training step, where nothing else is installed."""
    code = (
        WITHOUT_COLLECTOR
        + """
import re, sys
from importlib import metadata
there = set()
def install(name):
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name not in there:
        there.add(name)
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            return
        for line in needed:
            if "extra ==" not in line:
                install(re.match(r"[\\w.-]+", line)[0])
for name in ("torch", "numpy", "scipy", "monai", "nibabel"):
    install(name)
lacking = {
    module for module, owners in metadata.packages_distributions().items()
    if not any(re.sub(r"[-_.]+", "-", owner).lower() in there for owner in owners)
} - {"medvit"}
assert {"pydicom", "SimpleITK", "ignite", "typer", "rich", "lazy_loader", "skimage"} <= lacking
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in lacking else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from torch import nn
from workflows import on_gpu
network = nn.Conv3d(1, 5, 3, padding=1).eval()
on_gpu.segmenters = lambda session: {"small": (network, network)}
sys.exit(on_gpu.main(sys.argv[1:]))
"""
    )
    arguments = ["--minutes", "1", "--tiny", "--device", "cpu", "--skip", "inference", "networks"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments, "--output", str(tmp_path)],
        cwd=on_gpu.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-800:]
    report = (tmp_path / "report.md").read_text()
    assert "ended early" not in report, report
    for line in ("voxels of 4 mm:", "2 windows of 32^3:", "| file to file: s | 1.5 |", "repeated in float32"):
        assert line in report
    assert "| training step: s | 0.06 |  | not measured" not in report
    assert (tmp_path / "labels.nii.gz").is_file()


def test_every_target_is_measured_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size, with networks that cost nothing in place of ours and MONAI's."""
    network = nn.Conv3d(1, 14, 1).eval()
    session = on_gpu.Session(1, "cpu", tmp_path, tiny=True)
    session.reserve = -100.0
    names = ("SegFormer3D", "SwinUNETR 48")
    monkeypatch.setattr(on_gpu, "segmenters", lambda session: dict.fromkeys(names, (network, network)))
    monkeypatch.setattr(session, "peak", lambda run: 2.0)
    on_gpu.inference(session)
    measured = {name for name in on_gpu.TARGETS if name.endswith((": time", ": memory"))}
    assert measured <= session.measured.keys()
