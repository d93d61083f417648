"""`medvit train` for restorers: degradations, pairs, and a bundle that restores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medvit.bundles import Bundle, find_bundle, open_bundle
from medvit.cli.app import app
from medvit.errors import MedvitError
from medvit.runs import run_bundle
from medvit.training import (
    Choices,
    Degradation,
    RestorationSlices,
    find_restorer,
    restorer_for,
    restorer_network,
    restorers,
    train_restorer,
)
from medvit.training.history import read_history

CHOICES = Choices(epochs=1, epoch_length=2, batch_size=1, learning_rate=1e-5, seed=1, device="cpu")


def write_pairs(folder: Path, count: int = 3, *, targets: bool = True, shift: float = 0.0) -> Path:
    """Bright discs on dark ground and, as images, the same with noise; the manifest that lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    grid = np.indices((34, 40, 4)) - np.array([17, 20, 2])[:, None, None, None]
    cases = []
    for number in range(count):
        clean = 20.0 + 400.0 * (np.hypot(grid[0], grid[1]) < 10 + number)
        noisy = np.hypot(clean + rng.normal(0, 30, clean.shape), rng.normal(0, 30, clean.shape))
        moved = np.diag([1.0, 1, 3, 1])
        moved[0, 3] = shift
        for name, values, affine in (("clean", clean, moved), ("noisy", noisy, np.diag([1.0, 1, 3, 1]))):
            nib.save(nib.Nifti1Image(values.astype(np.float32), affine), folder / f"{name}{number}.nii.gz")
        case = {"id": f"sub-{number}", "image": f"{'noisy' if targets else 'clean'}{number}.nii.gz"}
        cases.append(case | ({"target": f"clean{number}.nii.gz"} if targets else {}))
    file = folder / "pairs.json"
    file.write_text(json.dumps({"name": "discs", "modality": "MR", "channels": ["t1n"], "cases": cases}))
    return file


def slices_of(manifest: Path, scratch: Path, degradation: str = "") -> RestorationSlices:
    bundle = find_bundle("rat_mr_denoise")
    return RestorationSlices(manifest, "", bundle.path, scratch, Degradation.parse(degradation), 0.34, 0)


def test_degradations_are_those_that_are_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.full((200, 200), 0.5)
    noise = Degradation.parse("gaussian:0.1")(clean, 1.0, 1.0, generator) - clean
    assert noise.std() == pytest.approx(0.1, rel=0.02) and abs(noise.mean()) < 0.002
    air = Degradation.parse("rician:0.1")(torch.zeros(200, 200), 1.0, 1.0, generator)
    assert air.min() >= 0 and air.mean() == pytest.approx(0.1 * (np.pi / 2) ** 0.5, rel=0.02)
    levels = [
        float(Degradation.parse("gaussian:0.01:0.2")(clean, 1.0, 1.0, generator).std()) for _ in range(30)
    ]
    assert 0.009 < min(levels) < 0.03 and 0.1 < max(levels) < 0.21
    with pytest.raises(MedvitError, match="--degrade 'blur:1': give rician"):
        Degradation.parse("blur:1")
    with pytest.raises(MedvitError, match="--degrade 'low-dose:2'"):
        Degradation.parse("low-dose:2")


def test_pairs_are_scaled_alike_and_held_out_by_patient(tmp_path: Path) -> None:
    slices = slices_of(write_pairs(tmp_path / "in"), tmp_path / "scratch")
    assert slices.cases == {"training": 2, "validation": 1} and slices.sample_shape(96) == [32, 32]
    assert slices.validation is not None
    assert not set(slices.training.volumes) & set(slices.validation.volumes)
    degraded, clean = slices.training(torch.Generator().manual_seed(3))
    assert degraded.shape == clean.shape == (34, 40)
    # Discs of 420 over ground of 20, whatever the unit of the noisy image is.
    assert float(clean.max() / clean.min()) == pytest.approx(21, rel=1e-3)
    assert 0.02 < (degraded - clean).std() < 0.15


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    bare = write_pairs(tmp_path / "bare", targets=False)
    with pytest.raises(MedvitError, match=r"case sub-0 has no target to restore to.*--degrade"):
        slices_of(bare, tmp_path / "a")
    degraded, clean = slices_of(bare, tmp_path / "b", "rician:0.05").training(torch.Generator())
    assert (degraded != clean).any()
    with pytest.raises(MedvitError, match="case sub-0: its image and its target do not lie on one grid"):
        slices_of(write_pairs(tmp_path / "moved", shift=5.0), tmp_path / "c")
    assert find_restorer("segformer3d_brain") is None and find_restorer("nothing") is None


def test_a_restorer_becomes_a_bundle_that_restores(tmp_path: Path) -> None:
    manifest = write_pairs(tmp_path / "in")
    base = find_bundle("rat_mr_denoise")
    bundle = train_restorer(base, manifest, tmp_path / "mine", CHOICES)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("mine")] == ["mine"]
    assert "dB" in bundle.facts["quality"] and "held-out case" in bundle.facts["quality"]
    assert bundle.metadata["eval_metrics"]["psnr_validation_db"] > 10
    rows = read_history(bundle.path / "docs" / "training.csv")
    assert rows[-1]["step"] == 2 and "mean_psnr" in rows[-1]
    text = (bundle.path / "docs" / "README.md").read_text()
    assert "images and their targets" in text and "training.png" in text and str(tmp_path) not in text
    configuration = bundle.config("train").read_text()
    assert str(tmp_path) not in configuration and "locate('mine')" in configuration
    found = find_bundle(str(bundle.path), trust=True)
    assert run_bundle(
        found, [tmp_path / "in" / "noisy0.nii.gz"], tmp_path / "out", report=False, force=True
    ) in (0, 3)
    assert list((tmp_path / "out").rglob("*.nii.gz"))


def test_it_is_resumed_with_the_settings_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any) -> Any:
        raise MedvitError("interrupted")

    manifest, base = write_pairs(tmp_path / "in"), find_bundle("rat_mr_denoise")
    monkeypatch.setattr(restorers, "_trained", interrupted)
    with pytest.raises(MedvitError, match="interrupted"):
        train_restorer(base, manifest, tmp_path / "mine", CHOICES)
    with pytest.raises(MedvitError, match="interrupted"):
        train_restorer(base, manifest, tmp_path / "mine", CHOICES, resume=True)
    for change in ({"batch_size": None}, {"batch_size": 2}):
        with pytest.raises(MedvitError, match=r"other settings \(batch_size\)"):
            train_restorer(base, manifest, tmp_path / "mine", replace(CHOICES, **change), resume=True)
    with pytest.raises(MedvitError, match=r"other settings \(from_scratch, network\)"):
        network = restorer_network("HAT")
        train_restorer(base, manifest, tmp_path / "mine", CHOICES, network=network, resume=True)


def test_the_command_takes_a_stated_degradation(tmp_path: Path) -> None:
    manifest = write_pairs(tmp_path / "in", targets=False)
    words = ["train", "rat_mr_denoise", str(manifest), "-o", str(tmp_path / "mine"), "--device", "cpu"]
    words += ["--epochs", "1", "--epoch-length", "1", "--batch-size", "1", "--degrade", "rician:0.02:0.1"]
    for options in (["--folds", "3"], ["--patch-size", "32", "32", "32"], ["--no-mirror"], ["--skip-bad"]):
        refused = CliRunner().invoke(app, [*words, *options])
        assert "does not apply to a restorer" in str(refused.exception) and not (tmp_path / "mine").exists()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    made = Bundle(tmp_path / "mine")
    assert made.facts["trained"]["degradation"] == "rician:0.02:0.1"
    parts = {steps: open_bundle(made, "train", epochs=1, epoch_length=steps) for steps in (1, 200, 10_000)}
    assert [parts[n].part("ema#momentum") for n in parts] == [0.1, 0.025, 0.002]


def test_a_network_by_name_becomes_a_denoiser_without_regions(tmp_path: Path) -> None:
    manifest = write_pairs(tmp_path / "in", targets=False)
    words = ["train", "drsformer", str(manifest), "-o", str(tmp_path / "mine"), "--device", "cpu"]
    words += ["--epochs", "1", "--epoch-length", "1", "--batch-size", "1"]
    undecided = CliRunner().invoke(app, words)
    assert undecided.exit_code != 0 and "--degrade" in str(undecided.exception)
    done = CliRunner().invoke(app, [*words, "--degrade", "rician:0.02:0.1"])
    assert done.exit_code == 0, done.output
    made = Bundle(tmp_path / "mine")
    image = made.metadata["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == 1 and "RAT" not in json.dumps(made.metadata)
    assert made.facts["trained"]["from"] == "scratch"
    found = find_bundle(str(made.path), trust=True)
    clean = tmp_path / "in" / "clean0.nii.gz"
    assert run_bundle(found, [clean], tmp_path / "out", report=False, force=True) in (0, 3)
    (restored,) = (tmp_path / "out").rglob("*.nii.gz")
    # An untrained residual network leaves the discs nearly as they are.
    before, after = (nib.load(path).get_fdata() for path in (clean, restored))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
    assert find_restorer("hat") is None and restorer_for("low-dose:0.2").name == "rat_ct_denoise"
