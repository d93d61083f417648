"""Made-up predictions and references: three studies of two balls, the predictions a little off."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from tests.metrics.shapes import ball

SHAPE = (32, 30, 20)
AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])


def two_balls(shift: int = 0, radius: float = 6) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[ball(SHAPE, (9 + shift, 14, 10), radius)] = 1
    labels[ball(SHAPE, (23, 14 + shift, 10), 4)] = 2
    return labels


def save(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


def write_cohort(folder: Path, studies: int = 3) -> tuple[Path, Path]:
    """Predictions as a run leaves them, references as nnU-Net has them."""
    for i in range(studies):
        save(folder / "pred" / f"case_{i}" / "labels.nii.gz", two_balls(shift=i % 3, radius=6 - i % 2))
        save(folder / "labelsTr" / f"case_{i}.nii.gz", two_balls())
    return folder / "pred", folder / "labelsTr"
