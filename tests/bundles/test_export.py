"""Exported networks give what the bundle's own network gives."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medvit.bundles import Bundle, export_bundle, find_bundle, open_bundle
from medvit.bundles.export import OPSET
from medvit.errors import MedvitError
from medvit.networks import LateralSegmenter

BRAIN = find_bundle("segformer3d_brain")


def small_copy(folder: Path, tiny: bool = True) -> Bundle:
    """The flagship with the smallest window; with one convolution for a network if `tiny`."""
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    config = json.loads(BRAIN.config("inference").read_text()) | {"roi_size": [32, 32, 32]}
    if tiny:
        readout = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 19, "kernel_size": 3}
        config["network_def"]["network"] = readout | {"padding": 1}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(BRAIN.metadata))
    if tiny:
        torch.manual_seed(0)
        layer = nn.Conv3d(1, 19, 3)
        torch.save({f"network.{k}": v for k, v in layer.state_dict().items()}, folder / "models" / "model.pt")
    else:
        (folder / "models" / "model.pt").write_bytes(BRAIN.weights.read_bytes())
    return Bundle(folder)


def labels_of(bundle: Bundle, image: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return open_bundle(bundle, device="cpu").part("network")(image).argmax(1).numpy()


@pytest.mark.parametrize("tiny", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_onnx_runtime_gives_the_same_labels(tiny: bool, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    bundle = small_copy(tmp_path / "small", tiny)
    file = export_bundle(bundle, tmp_path / "out", "onnx")
    assert [p.name for p in file.parent.iterdir()] == [f"small_v{BRAIN.version}.onnx"]
    assert onnx.load(file).opset_import[0].version == OPSET
    image = torch.rand(1, 1, 32, 32, 32)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    assert np.isfinite(logits).all()
    assert (logits.argmax(1) == labels_of(bundle, image)).mean() > 0.9999


def test_torchscript_gives_the_same_labels(tmp_path: Path) -> None:
    bundle = small_copy(tmp_path / "small")
    file = export_bundle(bundle, tmp_path / "out", "torchscript")
    extra = {"metadata.json": ""}
    network = torch.jit.load(file, _extra_files=extra)
    assert json.loads(extra["metadata.json"])["version"] == BRAIN.version
    image = torch.rand(1, 1, 32, 32, 32)
    assert (network(image).argmax(1).numpy() == labels_of(bundle, image)).mean() > 0.9999


def test_a_zip_holds_the_bundle_under_its_name(tmp_path: Path) -> None:
    file = export_bundle(BRAIN, tmp_path, "zoo")
    names = zipfile.ZipFile(file).namelist()
    assert {"segformer3d_brain/configs/train.json", "segformer3d_brain/models/model.pt"} <= {*names}
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    with pytest.raises(MedvitError, match="choose onnx, torchscript, zoo"):
        export_bundle(BRAIN, tmp_path, "tflite")


def test_sides_far_from_zero_stay_finite() -> None:
    class Side(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([image.expand(-1, 18, -1), 200 * image], dim=1)

    logits = LateralSegmenter(Side(), "brain")(torch.ones(1, 1, 1))
    assert logits[0, 1, 0] == pytest.approx(1 - 200.0)
    assert logits[0, 2, 0] == pytest.approx(1.0)
