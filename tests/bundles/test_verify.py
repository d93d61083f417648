"""An engine is verified against torch on the windows that the bundle's network really gets."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from medvit.bundles import Bundle, open_bundle
from medvit.bundles.verify import verify_backend, windows_of
from medvit.cli.app import app
from medvit.errors import MedvitError
from medvit.inference import conversion
from tests.bundles.test_export import small_copy


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return small_copy(tmp_path / "small")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright ball in a large dark field, so that some windows hold nothing."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in (150, 170, 150)), indexing="ij"))
    ball = 200.0 * (np.linalg.norm(grid, axis=0) < 60) + np.random.default_rng(0).normal(0, 3, grid.shape[1:])
    file = tmp_path_factory.mktemp("studies") / "head.nii.gz"
    nib.save(nib.Nifti1Image(ball.clip(0).astype(np.int16), np.diag([1.0, 1.0, 1.0, 1.0])), file)
    return file


def test_the_command_says_that_the_answer_is_the_same(bundle: Bundle) -> None:
    answer = CliRunner().invoke(
        app, ["verify", str(bundle.path), "--trust", "--json", "--windows", "2", "--rounds", "1"]
    )
    assert answer.exit_code == 0, answer.output
    row = json.loads(answer.stdout)
    assert row["same_answer"] and row["windows"] == 2 and row["backend"] == "openvino"
    assert 0 <= row["logits_differing"] < 1e-5 and row["torch_seconds"] > 0


def test_another_answer_is_noticed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    network = open_bundle(bundle, device="cpu").part("network")

    def wrong(windows: Tensor) -> Tensor:
        logits = network(windows)
        logits[0, logits[0, :, 0, 0, 0].argmin(), 0, 0, 0] += 1000.0
        return logits

    monkeypatch.setattr(conversion, "engine", lambda *_: wrong)
    found = verify_backend(bundle, "openvino", windows=1, rounds=1)
    assert found.voxels_differing == pytest.approx(1 / 32**3, abs=1 / 32**3 / 2)
    assert found.logits_differing > 1 and not found.same_answer
    assert "another answer than torch" in str(found)


def test_windows_are_those_of_the_study_without_empty_ones(bundle: Bundle, head: Path) -> None:
    seen = windows_of(open_bundle(bundle, device="cpu"), [head, head], 5)
    assert len(seen) == 5 and all(window.shape == (1, 1, 32, 32, 32) for window in seen)
    assert all(window.min() < window.max() for window in seen)
    assert torch.equal(seen[0], windows_of(open_bundle(bundle, device="cpu"), [head], 3)[0])


def test_torch_is_not_compared_with_itself(bundle: Bundle) -> None:
    with pytest.raises(MedvitError, match="give another backend"):
        verify_backend(bundle, "torch")
