"""A quantised bundle runs like any other, states what it lost, and is refused where that is much."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import verify_net_in_out
from typer.testing import CliRunner

from medvit.bundles import Bundle, export_bundle, open_bundle, quantize, segment
from medvit.bundles.quantize import Scores, quantize_bundle
from medvit.cli.app import app
from medvit.errors import MedvitError, MissingExtraError
from medvit.inference import backends, conversion
from medvit.inference.conversion import ConversionError, openvino_model
from medvit.training.architectures import start_named
from tests.bundles.test_export import small_copy


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = small_copy(tmp_path_factory.mktemp("bundles") / "small")
    file = made.config("inference")
    config = json.loads(file.read_text()) | {"spacing": [4.0, 4.0, 4.0], "postprocessing": None}
    del config["postprocessing"]
    config["evaluator"].pop("postprocessing")
    file.write_text(json.dumps(config))
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Concentric shells, so that the random network gives more than one label."""
    grid = np.stack(np.meshgrid(*(4.0 * np.arange(n) - 2 * n for n in (40, 44, 40)), indexing="ij"))
    shells = 20.0 * (10 - np.linalg.norm(grid, axis=0) // 8).clip(0)
    file = tmp_path_factory.mktemp("studies") / "head.nii.gz"
    nib.save(nib.Nifti1Image(shells.astype(np.int16), np.diag([4.0, 4.0, 4.0, 1.0])), file)
    return file


def test_the_command_writes_a_bundle_that_runs(bundle: Bundle, head: Path, tmp_path: Path) -> None:
    target = tmp_path / "small_int8"
    answer = CliRunner().invoke(
        app,
        ["quantize", str(bundle.path), "--trust", "--data", str(head), "-o", str(target), "--windows", "4"],
    )
    assert answer.exit_code == 0, answer.output
    made = Bundle(target)
    assert made.weights.name == "int8.bin" and made.weights.is_file()
    assert made.is_quantised and not bundle.is_quantised
    window = made.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    verify_net_in_out(
        net_id="network_def", meta_file=str(target / "configs" / "metadata.json"),
        config_file=str(made.config("inference")), bundle_root=str(target), device="cpu",
    )  # fmt: skip
    assert window == [32, 32, 32]
    with pytest.raises(MedvitError, match="small_int8 is quantised and cannot be trained; train small"):
        start_named(str(target), trust=True)
    dice = made.facts["quantised"]["dice"]
    assert dice and all(row["before"] == 1 for row in dice.values())
    results = {b.name: segment(b, head) for b in (bundle, made)}
    same = results["small"].voxels == results["small_int8"].voxels
    assert "1 study it was calibrated on" in made.facts["quality"]
    assert same.mean() > 0.9 and len(np.unique(results["small"].voxels)) > 1
    assert results["small_int8"].details["backend"] == "openvino"
    assert "| float32 | int8 |" in (target / "docs" / "README.md").read_text()
    for form in ("zoo", "onnx", "torchscript"):
        with pytest.raises(MedvitError, match="by OpenVINO only; export small, or give --format bundle"):
            export_bundle(made, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_a_loss_is_refused_unless_it_is_forced(
    bundle: Bundle, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossy = {"thalamus": Scores(0.9, 0.89, 12.0), "pallidum": Scores(0.8, 0.7, 1.5)}
    whole = open_bundle(bundle, device="cpu").part("network")
    plain = openvino_model(whole.network, torch.zeros(1, 1, 32, 32, 32))
    asked: list[bool] = []
    monkeypatch.setattr(quantize, "_quantized", lambda *given: asked.append(given[-1]) or plain)
    monkeypatch.setattr(quantize, "_scores", lambda *_: lossy)
    given = {"references": tmp_path, "windows": 1}
    with pytest.raises(
        MedvitError, match=r"thalamus loses more than 0.5 points.*\(0.900 before, 0.890 after\)"
    ):
        quantize_bundle(bundle, [head], tmp_path / "made", **given)
    assert not (tmp_path / "made").exists()
    asked.clear()
    made = quantize_bundle(bundle, [head], tmp_path / "made", **given, force=True)
    # Balancing is tried where the quicker scheme loses quality.
    assert asked == [False, True]
    assert "| thalamus | 12.0 | 0.900 | 0.890 | -1.0 |" in (made.path / "docs" / "README.md").read_text()


def test_dice_is_counted_by_structure_and_volume(bundle: Bundle) -> None:
    first, second, *_ = bundle.label_table.structures
    drawn = np.zeros((10, 10, 10), np.uint16)
    drawn[:4] = first.file_value
    before, after = drawn.copy(), drawn.copy()
    after[:2] = second.file_value
    found = quantize._dice(bundle.label_table, before, after, drawn, 0.01)
    assert found == {first.name: Scores(1.0, pytest.approx(2 / 3), pytest.approx(4.0))}
    assert found[first.name].is_loss


def test_what_cannot_be_quantised_is_refused(
    bundle: Bundle, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medvit.bundles import find_bundle

    with pytest.raises(MedvitError, match="restores images"):
        quantize_bundle(find_bundle("rat_mr_denoise"), [head], tmp_path / "made")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedvitError, match=r"no study was found in .*empty; give studies to measure on"):
        quantize_bundle(bundle, [head], tmp_path / "made", measure=[tmp_path / "empty"])
    (tmp_path / "there").write_text("")
    with pytest.raises(MedvitError, match="exists already"):
        quantize_bundle(bundle, [head], tmp_path / "there")
    monkeypatch.setattr(backends, "installed", lambda backend: False)
    with pytest.raises(MissingExtraError, match=r"medvit\[openvino\]"):
        quantize_bundle(bundle, [head], tmp_path / "made")


def test_a_network_that_ends_the_process_of_openvino_is_refused(
    bundle: Bundle, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_TRIAL", "import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(conversion, "_compiled", type(conversion._compiled)())
    with pytest.raises(ConversionError, match=r"OpenVINO cannot run .*use the backend torch"):
        quantize_bundle(bundle, [head], tmp_path / "out", windows=1)
    assert not (tmp_path / "out").exists()
