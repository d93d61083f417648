"""The recipes for super-resolution: from their specification through training to a finer image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from medvit.bundles import Bundle
from medvit.bundles.write import main
from medvit.runs import run_bundle
from tests.phantoms import head_labels, write_head

ROOT = Path(__file__).parents[2]


def _thick(head: np.ndarray) -> np.ndarray:
    return head.reshape(*head.shape[:2], -1, 4).mean(axis=3)


def _coarse(head: np.ndarray) -> np.ndarray:
    return head[::2, ::2]


@pytest.mark.parametrize(
    ("recipe", "made_coarse", "spacing", "origin"),
    [
        ("bundles/hat_mr_superres", _thick, (1.0, 1.0, 4.0), [0, 0, -1.5]),
        ("bundles/hat_mr_inplane", _coarse, (2.0, 2.0, 1.0), [0, 0, 0]),
    ],
)  # fmt: skip
def test_the_recipe_trains_and_its_bundle_runs(
    recipe: str,
    made_coarse: Callable[[np.ndarray], np.ndarray],
    spacing: tuple[float, float, float],
    origin: list[float],
    tmp_path: Path,
) -> None:
    folder = tmp_path / Path(recipe).name
    folder.mkdir()
    shutil.copy(ROOT / recipe / "bundle.json", folder)
    main([str(folder)])
    (tmp_path / "maps").mkdir()
    for name in ("seg_01", "seg_09"):
        write_head(tmp_path / "maps" / f"training_{name}.nii.gz")
    workflow = ConfigWorkflow(
        config_file=str(folder / "configs/train.json"), workflow_type="train", bundle_root=str(folder),
        dataset_dir=str(tmp_path / "maps"), output_dir=str(tmp_path / "out"), logging_file=False,
        device="$torch.device('cpu')", num_workers=0, epochs=1, epoch_length=2, val_interval=1, val_length=1,
        block_shape=24, sample_shape=[24, 24], samples=2,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    assert workflow.trainer.state.iteration == 2
    (folder / "models").mkdir()
    shutil.copy(tmp_path / "out/model.pt", folder / "models/model.pt")

    labels = head_labels()[16:56, 20:64, 12:52]
    head = np.where(labels > 0, labels % 7 * 90.0 + 50, 0).astype(np.float32)
    nib.save(nib.Nifti1Image(made_coarse(head), np.diag([*spacing, 1.0])), tmp_path / "head.nii.gz")
    overrides = {"gate#force": True, "device": "$torch.device('cpu')"}
    code = run_bundle(Bundle(folder), [tmp_path / "head.nii.gz"], tmp_path / "results", **overrides)
    image = nib.load(tmp_path / "results/head/image.nii.gz")
    assert image.shape == head.shape and np.isfinite(image.get_fdata()).all()
    assert image.get_fdata().min() >= 0
    np.testing.assert_allclose(image.affine[:3, 3], origin, atol=1e-5)
    report = json.loads((tmp_path / "results/head/measurements.json").read_text())
    assert "estimate" in json.dumps(report)
    # After two steps of training an estimate may contradict its slices, which the run says.
    assert code == (3 if report["quality"]["light"] == "red" else 0)
    contradicts = {"code": "contradicts_slices", "level": "serious"}.items()
    assert code == 0 or any(contradicts <= flag.items() for flag in report["quality"]["flags"])
