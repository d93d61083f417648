"""Small data sets and bundles to train on: boxes whose intensity is their label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medvit.bundles import Bundle
from tests.label.phantoms import make_bundle

# By which a network of one 1x1x1 convolution learns `boxes` in a second.
QUICK: dict[str, Any] = {
    "epochs": 3, "epoch_length": 15, "batch_size": 2, "learning_rate": 0.3, "patch_size": (16, 16, 16),
    "device": "cpu",
}  # fmt: skip
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def boxes(shape: tuple[int, int, int] = (20, 24, 16), shift: int = 0) -> np.ndarray:
    """(X, Y, Z) uint8: values 3 and 7, as a file may have them."""
    labels = np.zeros(shape, np.uint8)
    labels[2 + shift : 9 + shift, 3:20, 2:13] = 3
    labels[12:18, 5 + shift : 16 + shift, 4:12] = 7
    return labels


def image_of(labels: np.ndarray, seed: int) -> np.ndarray:
    """Dark outside, brighter in 3, brightest in 7."""
    levels = np.zeros(8, np.float32)
    levels[[3, 7]] = 50, 100
    noise = np.random.default_rng(seed).normal(0, 2, labels.shape)
    return (levels[labels] + noise).astype(np.float32)


def write_data(folder: Path, count: int = 3, *, channels: int = 1, **manifest: Any) -> Path:
    """Cases with label maps in files, and the manifest that lists them."""
    cases = []
    for number in range(count):
        labels = boxes(shift=number)
        images = []
        for channel in range(channels):
            name = f"case{number}_{channel:04d}.nii.gz"
            image = image_of(labels, 10 * number + channel) * (1 if channel == 0 else -1)
            nib.save(nib.Nifti1Image(image, AFFINE), _made(folder) / name)
            images.append(name)
        nib.save(nib.Nifti1Image(labels, AFFINE), folder / f"case{number}_seg.nii.gz")
        cases.append(
            {
                "id": f"case{number}",
                "image": images[0] if channels == 1 else images,
                "label": f"case{number}_seg.nii.gz",
            }
        )
    content = {
        "name": "boxes",
        "modality": "MR",
        "channels": ["t1n", "t2w", "pd"][:channels],
        "labels": [{"value": 3, "name": "low box"}, {"value": 7, "name": "high box"}],
        "cases": cases,
        **manifest,
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


def base_bundle(folder: Path) -> Bundle:
    """A bundle whose network is one 1x1x1 convolution."""
    return Bundle(make_bundle(folder))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
