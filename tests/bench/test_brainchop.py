"""The peer: its network is what its files say, and its label map lies on the study's grid."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.bench import BenchStudy, Reference, brainchop, read_peer
from medvit.errors import MedvitError, WeightsError
from medvit.evaluation.structures import ScoredStructure
from medvit.runs.outcome import StudyOutcome
from medvit.studies import only_study


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two layers: class 1 where the intensity is above one half, class 0 below."""
    folder = tmp_path / "model"
    folder.mkdir()
    common = {"stride": 1, "dilation": 1}
    layers = [
        {"in_channels": 1, "out_channels": 1, "kernel_size": 3, "padding": 1, **common},
        {"in_channels": 1, "out_channels": 2, "kernel_size": 1, "padding": 0, **common},
    ]
    (folder / "model.json").write_text(json.dumps({"layers": layers}))
    identity = np.zeros((1, 1, 3, 3, 3), np.float32)
    identity[0, 0, 1, 1, 1] = 1
    tensors = {
        "model.0.weight": identity,
        "model.0.bias": np.zeros(1, np.float32),
        "model.2.weight": np.array([0, 1], np.float32).reshape(2, 1, 1, 1, 1),
        "model.2.bias": np.array([0.5, 0], np.float32),
    }
    write_safetensors(folder / "model.pth", tensors)
    return folder


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header: dict[str, dict] = {}
    data = b""
    for name, values in tensors.items():
        offsets = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": offsets}
        data += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_labels_lie_where_the_study_is_bright(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brainchop, "_EDGE", 64)
    voxels = np.zeros((20, 12, 16), np.float32)
    voxels[4:14, 3:9, 4:12] = 100
    voxels[18, 1, 1] = 100  # apart from the rest
    affine = np.array([[0, 0, -2.0, 9], [2.0, 0, 0, -5], [0, 3.0, 0, 4], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "head.nii.gz")
    work = brainchop.BrainchopWork(model, tmp_path / "out")
    work.open()
    outcome = StudyOutcome("head")
    work.perform(only_study(tmp_path / "head.nii.gz"), outcome)
    assert outcome.status == "done", outcome.error
    labels = nib.load(tmp_path / "out" / "head" / "labels.nii.gz")
    np.testing.assert_allclose(labels.affine, affine)
    found = np.asarray(labels.dataobj)
    assert found[18, 1, 1] == 0
    found, drawn = found > 0, voxels > 0
    drawn[18, 1, 1] = False
    assert 2 * (found & drawn).sum() / (found.sum() + drawn.sum()) > 0.85


def test_files_that_do_not_fit_are_refused(model: Path) -> None:
    whole = (model / "model.pth").read_bytes()
    (model / "model.pth").write_bytes(whole[:-8])
    with pytest.raises(WeightsError, match="not a safetensors file"):
        brainchop.BrainchopWork(model, model).open()
    write_safetensors(model / "model.pth", {"model.0.weight": np.zeros((1, 1, 3, 3, 3), np.float32)})
    with pytest.raises(WeightsError, match="Missing key"):
        brainchop.BrainchopWork(model, model).open()


def test_a_peer_is_compared_in_what_it_has(model: Path) -> None:
    peer = read_peer(f"brainchop={model}")
    names = ("brain", "thalamus", "lateral ventricle")
    regions = tuple(ScoredStructure(name, (n + 20,)) for n, name in enumerate(names))
    reference = Reference("heads", model, regions, regions)
    other = Reference("tissues", model, regions[:1], regions[:1])
    study, unknown = BenchStudy("a", model, (reference, other)), BenchStudy("b", model, (other,))
    (kept,) = peer.studies([study, unknown])
    (compared,) = kept.references
    assert [(r.name, r.values) for r in compared.found] == [("thalamus", (7,)), ("lateral ventricle", (3, 4))]
    assert compared.drawn == regions[1:]


def test_a_peer_is_stated_by_name_and_folder(model: Path, tmp_path: Path) -> None:
    for stated, message in (
        ("brainchop", "give NAME=FOLDER"),
        (f"brainchip={model}", "did you mean 'brainchop'"),
        (f"brainchop={tmp_path}", r"model\.json does not exist"),
    ):
        with pytest.raises(MedvitError, match=message):
            read_peer(stated)


def test_elu_stands_between_layers_and_not_behind_the_last() -> None:
    layer = {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "padding": 0, "stride": 1, "dilation": 1}
    network = brainchop.mesh_net([layer, layer])
    for convolution in (network[0], network[2]):
        torch.nn.init.constant_(convolution.weight, -1.0)
        torch.nn.init.zeros_(convolution.bias)
    image = torch.full((1, 1, 1, 1, 1), 2.0)
    assert network(image).item() == pytest.approx(1 - float(torch.tensor(-2.0).exp()))
