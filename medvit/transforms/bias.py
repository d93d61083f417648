"""Correction of the smooth brightness field that coils leave in MR images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

# The field is smooth: it is fitted on voxels of about this many mm.
_FIT_MM = 4.0


class CorrectBiasd(MapTransform):
    """N4 correction of the brightness field of MR images.

    The field is estimated on a coarser grid within the head (Otsu's threshold) and divided out at full size.
    Images with negative values are not magnitudes and are left unchanged.

    Parameters
    ----------
    keys
        MetaTensors (1, X, Y, Z) with an affine in mm.
    iterations
        Largest number of iterations at each of four resolutions of the spline.

    References
    ----------
    Tustison et al., N4ITK: improved N3 bias correction, IEEE Transactions on Medical Imaging 29:1310-1320,
    2010.
    """

    def __init__(self, keys: KeysCollection, iterations: tuple[int, ...] = (30, 30, 30, 30)) -> None:
        super().__init__(keys)
        self.iterations = iterations

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """`data` with its images corrected."""
        result = dict(data)
        for key in self.key_iterator(result):
            image: MetaTensor = result[key]
            spacing = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
            corrected = _corrected(image[0].cpu().numpy(), spacing, self.iterations)
            result[key] = MetaTensor(torch.from_numpy(corrected)[None].to(image.device), meta=image.meta)
        return result


def _corrected(image: np.ndarray, spacing: np.ndarray, iterations: tuple[int, ...]) -> np.ndarray:
    """An image (X, Y, Z) divided by its brightness field, whose mean over the head is 1."""
    import SimpleITK

    if not np.isfinite(image).all() or image.min() < 0 or image.max() <= image.min():
        return image
    whole = SimpleITK.GetImageFromArray(np.ascontiguousarray(image.T, np.float32))
    whole.SetSpacing([float(s) for s in spacing])
    shrink = [max(1, min(round(_FIT_MM / s), n // 8)) for s, n in zip(spacing, image.shape, strict=True)]
    coarse = SimpleITK.Shrink(whole, shrink)
    head = SimpleITK.OtsuThreshold(coarse, 0, 1)
    filter_ = SimpleITK.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations(list(iterations))
    filter_.Execute(coarse, head)
    logarithm = SimpleITK.GetArrayFromImage(filter_.GetLogBiasFieldAsImage(whole)).T
    inside = image > image.mean()
    return (image / np.exp(logarithm - logarithm[inside].mean())).astype(np.float32)
