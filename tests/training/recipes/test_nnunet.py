"""nnU-Net's steps: predictions back on the grid of their file, and patches."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from medvit.training.recipes import (
    case_list,
    nnformer_dice,
    nnunet_augmentation,
    nnunet_postprocessing,
    nnunet_preprocessing,
)
from tests.workflows.data_sets import saved, write_nnunet


def test_predictions_return_to_the_grid_of_their_file(tmp_path: Path) -> None:
    write_nnunet(tmp_path, 3, 1, (30, 26, 8), (1.5, 1.5, 5.0))
    case = case_list(tmp_path, tmp_path)[0]
    truth = np.asarray(nib.load(case["label"]).dataobj)
    as_image = saved(tmp_path / "truth.nii.gz", truth.astype(np.float32), nib.load(case["label"]).affine)
    preprocessing = nnunet_preprocessing(tmp_path, [2.5, 1.0, 1.0], resample_label=False)
    sample = preprocessing({"image": as_image, "label": case["label"]})
    assert sample["image"].shape == (1, 15, 38, 44)  # Z, Y, X at the new spacing
    assert sample["label"].shape == (1, 30, 26, 8)
    levels = torch.unique(sample["image"].as_tensor())
    nearest = torch.tensor(
        [levels.min(), *(levels.min() + k * (levels.max() - levels.min()) / 3 for k in (1, 2, 3))]
    )
    logits = -20 * (sample["image"] - nearest.reshape(4, 1, 1, 1)).abs()
    sample["pred"] = logits
    predicted = nnunet_postprocessing(preprocessing)(sample)["pred"]
    assert predicted.shape == sample["label"].shape
    assert (predicted[0].numpy() == truth).mean() > 0.95
    assert nnformer_dice(predicted[0].numpy() == 3, truth == 3) > 0.9


def test_patches_have_their_size_and_a_third_holds_a_label() -> None:
    label = torch.zeros(1, 10, 60, 60, dtype=torch.uint8)
    label[:, 5, 30, 30] = 1
    sample = {"image": MetaTensor(torch.rand(1, 10, 60, 60)), "label": MetaTensor(label)}
    transform = nnunet_augmentation((8, 16, 16), samples=60).set_random_state(0)
    patches = transform(sample)
    assert {tuple(patch["image"].shape) for patch in patches} == {(1, 8, 16, 16)}
    with_label = sum(bool(patch["label"].any()) for patch in patches)
    assert 12 <= with_label <= 36
