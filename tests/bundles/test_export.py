"""Exported networks give what the bundle's own network gives."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from medvit.bundles import Bundle, export_bundle, find_bundle, installed_bundles, open_bundle, segment
from medvit.bundles.self_contained import self_contained_files
from medvit.errors import MedvitError
from medvit.inference.conversion import OPSET
from medvit.networks import LateralSegmenter
from tests.processes import WITHOUT_COLLECTOR

BRAIN = find_bundle("segformer3d_brain")


# What of the clean-up MONAI has a transform for.
WHOLE = {"_target_": "medvit.transforms.LargestComponentd", "keys": "pred"}


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
        # Air is background.
        layer.bias.data = 0.3 * (torch.arange(19) == 0)
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
    image = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    assert np.isfinite(logits).all()
    # Noise leaves many voxels undecided between two labels.
    assert (logits.argmax(1) == labels_of(bundle, image)).mean() > 0.9995


def test_torchscript_gives_the_same_labels(tmp_path: Path) -> None:
    bundle = small_copy(tmp_path / "small")
    file = export_bundle(bundle, tmp_path / "out", "torchscript")
    extra = {"metadata.json": ""}
    network = torch.jit.load(file, _extra_files=extra)
    assert json.loads(extra["metadata.json"])["version"] == BRAIN.version
    image = torch.rand(1, 1, 32, 32, 32)
    assert (network(image).argmax(1).numpy() == labels_of(bundle, image)).mean() > 0.9999


def test_a_zip_holds_the_bundle_under_its_name(tmp_path: Path) -> None:
    file = export_bundle(BRAIN, tmp_path, "bundle")
    names = zipfile.ZipFile(file).namelist()
    assert {"segformer3d_brain/configs/train.json", "segformer3d_brain/models/model.pt"} <= {*names}
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    with pytest.raises(MedvitError, match="choose onnx, torchscript, zoo, bundle"):
        export_bundle(BRAIN, tmp_path, "tflite")


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "medvit":
            raise ImportError("medvit is blocked")

sys.meta_path.insert(0, Blocked())
from monai.bundle import run, verify_net_in_out
from pathlib import Path

root = Path(sys.argv[1])
given = {"config_file": str(root / "configs" / "inference.json"), "bundle_root": str(root)}
run(**given, dataset_dir=sys.argv[2], output_dir=sys.argv[3], logging_file=False)
verify_net_in_out("network_def", meta_file=str(root / "configs" / "metadata.json"), device="cpu", **given)
"""


def test_monai_alone_gives_the_same_labels(tmp_path: Path) -> None:
    bundle = small_copy(tmp_path / "small")
    (bundle.path / "docs").mkdir()
    (bundle.path / "docs" / "README.md").write_text("# A card\n\n## Data\n")
    file = export_bundle(bundle, tmp_path / "out", "zoo")
    assert [p.name for p in file.parent.iterdir()] == [f"{BRAIN.zoo_name}_v{BRAIN.version}.zip"]
    zipfile.ZipFile(file).extractall(tmp_path / "out")
    root = tmp_path / "out" / BRAIN.zoo_name
    assert (root / "docs" / "README.md").read_text().startswith("# A card\n\n## Without medvit\n")
    (tmp_path / "in").mkdir()
    # Turned and shifted, at the spacing of the bundle, where nothing is averaged; a block of noise in air, so
    # that both must look at the same part.
    affine = np.array([[0, 1.0, 0, -20], [-1, 0, 0, 30], [0, 0, 1, 5], [0, 0, 0, 1]])
    noise = np.zeros((84, 72, 80), np.float32)
    noise[4:54, 6:54, 20:70] = np.random.default_rng(0).uniform(20, 90, (50, 48, 50))
    nib.save(nib.Nifti1Image(noise, affine), tmp_path / "in" / "scan.nii.gz")
    arguments = [str(root), str(tmp_path / "in"), str(tmp_path / "result")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COLLECTOR + BLOCKED, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made = nib.load(tmp_path / "result" / "scan" / "scan_seg.nii.gz")
    np.testing.assert_allclose(made.affine, affine, atol=1e-5)
    opened = open_bundle(bundle, device="cpu", postprocessing=WHOLE)
    expected = segment(opened, tmp_path / "in" / "scan.nii.gz").voxels
    assert len(np.unique(expected)) > 3
    assert (np.asarray(made.dataobj) == expected).mean() > 0.999


def test_what_needs_medvit_is_refused_for_the_zoo(tmp_path: Path) -> None:
    for name in ("segformer3d_hippocampus", "rat_ct_denoise"):
        with pytest.raises(MedvitError, match=f"{name} cannot be put in MONAI's terms.*--format bundle"):
            export_bundle(find_bundle(name), tmp_path / "out", "zoo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("inferer#region_labels", [1, 2], "inference"),
        ("inferer#region", {"_target_": "medvit.inference.CoarseRegion"}, "inference"),
        ("postprocessing", {"_target_": "Compose", "transforms": []}, "clean-up"),
        ("bias_correction", True, "preprocessing"),
    ],
)
def test_a_part_that_monai_lacks_is_named(name: str, value: object, part: str, tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match=f"the {part} of"):
        self_contained_files(open_bundle(small_copy(tmp_path), device="cpu", **{name: value}))


def test_a_bundle_is_found_by_its_name_in_the_zoos_style() -> None:
    assert find_bundle("brain_mri_segformer3d_segmentation") == BRAIN
    assert len({bundle.zoo_name for bundle in installed_bundles()}) == len(installed_bundles())


def test_sides_far_from_zero_stay_finite() -> None:
    class Side(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([image.expand(-1, 18, -1), 200 * image], dim=1)

    logits = LateralSegmenter(Side(), "brain")(torch.ones(1, 1, 1))
    assert logits[0, 1, 0] == pytest.approx(1 - 200.0)
    assert logits[0, 2, 0] == pytest.approx(1.0)
