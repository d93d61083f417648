"""A made-up head for the bench of restorations."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage


def write_textured_head(path: Path, spacing: float = 1.0) -> Path:
    x, y, z = np.meshgrid(*[np.arange(40) - 19.5] * 3, indexing="ij")
    radius = np.sqrt(x**2 + 1.3 * y**2 + z**2)
    head = np.where(radius < 17, 600 + 300 * np.sin(x / 2) * np.cos(z / 3 + y / 4), 0)
    affine = np.diag([-spacing, spacing, spacing, 1])[[0, 2, 1, 3]]
    nib.save(nib.Nifti1Image(ndimage.gaussian_filter(head, 0.7).astype(np.float32), affine), path)
    return path
