"""Intensities of CT inside what is labelled."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.training.recipes import (
    foreground_intensity,
)


def saved(path: Path, voxels: np.ndarray, affine: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


def test_foreground_intensity_is_of_labelled_voxels(tmp_path: Path) -> None:
    label = np.zeros((10, 10, 10), np.uint8)
    label[2:8, 2:8, 2:8] = 1
    image = np.where(label, np.random.default_rng(0).normal(60, 5, label.shape), -1000).astype(np.float32)
    cases = [
        {
            "image": saved(tmp_path / "i.nii", image, np.eye(4)),
            "label": saved(tmp_path / "l.nii", label, np.eye(4)),
        }
    ]
    found = foreground_intensity(cases)
    inside = image[label > 0]
    assert found == pytest.approx(
        (*np.percentile(inside, [0.5, 99.5]), inside.mean(), inside.std()), rel=1e-4
    )
    nothing = [{**cases[0], "label": saved(tmp_path / "n.nii", 0 * label, np.eye(4))}]
    with pytest.raises(MedvitError, match="no case has a labelled voxel"):
        foreground_intensity(nothing)
    other = [{**cases[0], "label": saved(tmp_path / "o.nii", label[1:], np.eye(4))}]
    with pytest.raises(MedvitError, match="its label map"):
        foreground_intensity(other)
