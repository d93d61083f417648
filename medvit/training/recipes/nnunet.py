"""Preparation, augmentation and post-processing of trainings that ran inside nnU-Net, from MONAI's parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureTyped,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
    Transform,
)

from medvit.training.recipes.intensity import ForegroundIntensity
from medvit.training.recipes.transforms import ManifestLabelsd, SlicesFirstd

# Room around a patch, so that turning and shrinking it does not bring in what lies outside the image.
_MARGIN = 1.2
# Patches this much flatter than wide are turned within their slices alone.
_FLAT = 3


def nnunet_preprocessing(
    manifest: str | Path,
    spacing: Sequence[float],
    intensity: ForegroundIntensity | None = None,
    *,
    resample_label: bool = True,
) -> Compose:
    """From files to an ``image`` and a ``label`` of one spacing, slices first.

    Parameters
    ----------
    manifest
        Of the data set, for its label values.
    spacing
        mm along Z, Y and X.
    intensity
        Of CT, which is cut at the percentiles and scaled by mean and standard deviation; ``None`` for images
        that are scaled by their own.
    resample_label
        False leaves the label map in the grid of its file, on which predictions are scored.
    """
    both = ("image", "label") if resample_label else ("image",)
    steps: list[Transform] = [
        LoadImaged(("image", "label"), image_only=True, ensure_channel_first=True),
        ManifestLabelsd("label", manifest),
        SlicesFirstd(both),
        Spacingd(both, spacing, mode=("bilinear", "nearest")[: len(both)]),
        _scaled(intensity),
        EnsureTyped(("image", "label")),
    ]
    return Compose(steps)


def _scaled(intensity: ForegroundIntensity | None) -> Transform:
    if intensity is None:
        return NormalizeIntensityd("image", channel_wise=True)
    lower, upper, mean, std = intensity
    return ScaleIntensityRanged(
        "image", a_min=lower, a_max=upper, b_min=(lower - mean) / std, b_max=(upper - mean) / std, clip=True
    )


def nnunet_augmentation(patch_size: Sequence[int], samples: int = 1) -> Compose:
    """Patches, a third around a labelled voxel, turned, scaled, mirrored, and their intensities varied.

    Kinds, ranges and probabilities are those of nnU-Net's default; the order of the steps and the
    interpolation at the edges are MONAI's.

    Parameters
    ----------
    patch_size
        Voxels along Z, Y and X.
    samples
        Patches of a case.

    References
    ----------
    Isensee et al.: nnU-Net, a self-configuring method, Nature Methods 2021, supplement.
    """
    both, image = ("image", "label"), "image"
    is_flat = max(patch_size) / min(patch_size) > _FLAT
    roomy = [n if is_flat and axis == 0 else math.ceil(_MARGIN * n) for axis, n in enumerate(patch_size)]
    turns = [math.pi, 0.0, 0.0] if is_flat else [math.pi / 6] * 3
    scales = [(0.0, 0.0) if is_flat and axis == 0 else (-0.3, 0.4) for axis in range(3)]
    return Compose(
        [
            SpatialPadd(both, roomy),
            RandCropByPosNegLabeld(both, "label", roomy, pos=1, neg=2, num_samples=samples),
            RandAffined(
                both,
                spatial_size=patch_size,
                prob=0.36,
                rotate_range=turns,
                scale_range=scales,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            RandGaussianNoised(image, prob=0.1, std=0.3),
            RandGaussianSmoothd(image, (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.2),
            RandScaleIntensityd(image, factors=(-0.25, 0.25), prob=0.15),
            RandScaleIntensityFixedMeand(image, factors=(-0.25, 0.25), preserve_range=True, prob=0.15),
            RandSimulateLowResolutiond(image, prob=0.25, zoom_range=(0.5, 1.0)),
            RandAdjustContrastd(image, prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            RandAdjustContrastd(image, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
    )


def nnunet_postprocessing(preprocessing: Compose) -> Compose:
    """From logits under ``pred`` to a label map in the grid of the files: probabilities are resampled.

    Parameters
    ----------
    preprocessing
        Of the image, which is undone.
    """
    return Compose(
        [
            Activationsd("pred", softmax=True),
            Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted("pred", argmax=True),
        ]
    )
