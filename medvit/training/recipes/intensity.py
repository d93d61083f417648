"""The intensities of CT inside what is labelled, by which nnU-Net scales its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from medvit.errors import MedvitError
from medvit.training.case_facts import ForegroundIntensity

# Voxels that are taken of a case: enough for percentiles, and no case outweighs the others.
_VOXELS = 10_000


def foreground_intensity(cases: Sequence[Mapping[str, Any]], seed: int = 0) -> ForegroundIntensity:
    """What the labelled voxels of CT cases look like, from a sample of each case.

    Parameters
    ----------
    cases
        Entries of `case_list`: NIfTI files ``image`` and ``label``.
    seed
        Seed of the sample.

    Raises
    ------
    MedvitError
        If nothing is labelled, or an image and its label map differ in shape.

    References
    ----------
    Isensee et al.: nnU-Net, a self-configuring method, Nature Methods 2021, supplement.
    """
    generator = np.random.default_rng(seed)
    sampled = []
    for case in cases:
        image, label = (nib.Nifti1Image.from_filename(case[key]) for key in ("image", "label"))
        if image.shape != label.shape:
            raise MedvitError(f"{case['image']} is {image.shape}, its label map {label.shape}")
        inside = np.flatnonzero(np.asanyarray(label.dataobj))
        if len(inside):
            chosen = generator.choice(inside, min(_VOXELS, len(inside)), replace=False)
            sampled.append(image.get_fdata(dtype=np.float32).ravel()[chosen])
    if not sampled:
        raise MedvitError("no case has a labelled voxel, so intensities cannot be scaled by them")
    return ForegroundIntensity.of(np.concatenate(sampled))
