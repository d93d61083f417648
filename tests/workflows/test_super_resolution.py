"""The recipe for super-resolution across slices: from its specification through training to a finer image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow

from medvit.bundles import Bundle
from medvit.bundles.write import main, to_json
from medvit.runs import run_bundle
from tests.phantoms import head_labels, write_head

SOURCE = Path(__file__).parents[2] / "workflows/hat_mr_superres"


def test_the_recipe_trains_and_its_bundle_runs(tmp_path: Path) -> None:
    folder = tmp_path / "hat_mr_superres"
    shutil.copytree(SOURCE, folder)
    main([str(folder)])
    (tmp_path / "maps").mkdir()
    for name in ("seg_01", "seg_09"):
        write_head(tmp_path / "maps" / f"training_{name}.nii.gz")
    workflow = ConfigWorkflow(
        config_file=str(folder / "configs/train.json"), workflow_type="train", bundle_root=str(folder),
        dataset_dir=str(tmp_path / "maps"), output_dir=str(tmp_path / "out"), logging_file=False,
        device="$torch.device('cpu')", num_workers=0, epochs=1, epoch_length=2, val_interval=1, val_length=1,
        slice_shape=48, sample_shape=[32, 32],
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    assert workflow.trainer.state.iteration == 2
    (folder / "models").mkdir()
    shutil.copy(tmp_path / "out/model.pt", folder / "models/model.pt")

    head = np.where(head_labels() > 0, head_labels() % 7 * 90.0 + 50, 0).astype(np.float32)
    thick = head[:, :, : 68 // 4 * 4].reshape(72, 84, 17, 4).mean(axis=3)
    nib.save(nib.Nifti1Image(thick, np.diag([1.0, 1.0, 4.0, 1.0])), tmp_path / "head.nii.gz")
    overrides = {"gate#force": True, "device": "$torch.device('cpu')"}
    assert run_bundle(Bundle(folder), [tmp_path / "head.nii.gz"], tmp_path / "results", **overrides) == 0
    image = nib.load(tmp_path / "results/head/image.nii.gz")
    assert image.shape == (72, 84, 68) and np.isfinite(image.get_fdata()).all()
    assert image.get_fdata().min() >= 0
    np.testing.assert_allclose(image.affine[:3, 3], [0, 0, -1.5], atol=1e-5)


def test_the_specification_is_laid_out_as_the_others_are() -> None:
    text = (SOURCE / "bundle.json").read_text()
    assert text == to_json(json.loads(text))
    assert not (SOURCE / "models").exists()
