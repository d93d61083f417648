"""Small data sets on disk: CT-like cases with a box to find, in the layout of nnU-Net or as listed cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (12, 14, 10)
AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])
NNUNET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def ct(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Soft tissue in air, HU."""
    image = np.random.default_rng(seed).normal(40, 10, shape).astype(np.float32)
    image[:2] = -1000
    return image


def boxes(shift: int = 0) -> np.ndarray:
    """108 voxels of value 1, 8 of value 2."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 3:9, 2:5] = 1
    labels[10, 3 + shift : 5 + shift, 2:6] = 2
    return labels


def nnunet(folder: Path, count: int = 3, **changed: Any) -> Path:
    """A sound data set of CT in nnU-Net's layout."""
    for number in range(count):
        save(folder / f"imagesTr/ct_{number:03d}_0000.nii.gz", ct(number))
        save(folder / f"labelsTr/ct_{number:03d}.nii.gz", boxes(number))
    (folder / "dataset.json").write_text(json.dumps(NNUNET | changed))
    return folder


def touch(folder: Path, *names: str) -> None:
    """Empty files, for what looks at names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
