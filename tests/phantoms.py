"""A made-up head with FreeSurfer labels: nested ellipsoids, the same on both sides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from medvit.bundles import Bundle, find_bundle

SHAPE = (72, 84, 70)
# Overrides with which a brain bundle runs on a small phantom within a fraction of a second.
COARSE = {"spacing": [4.0, 4.0, 4.0], "roi_size": [32, 32, 32]}


def _ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1


def head_labels() -> np.ndarray:
    """(72, 84, 70) int32 in RAS order, 1 mm."""
    labels = np.zeros(SHAPE, np.int32)
    left = np.arange(SHAPE[0])[:, None, None] < SHAPE[0] / 2
    centre = (35.5, 42.0, 38.0)
    for radii, values in (
        ((34, 40, 31), (511, 511)),
        ((32, 38, 29), (515, 515)),
        ((30, 36, 27), (24, 24)),
        ((28, 34, 25), (3, 42)),
        ((23, 29, 20), (2, 41)),
    ):
        inside = _ellipsoid(centre, radii)
        labels[inside & left], labels[inside & ~left] = values
    for x, side in ((29, 0), (42, 1)):
        labels[_ellipsoid((x, 46, 42), (3, 10, 4))] = (4, 43)[side]
        labels[_ellipsoid((x, 38, 34), (5, 6, 5))] = (10, 49)[side]
    labels[_ellipsoid((35.5, 34, 18), (5, 5, 12))] = 16
    return labels


def write_head(path: Path, axes: str = "RAS") -> Path:
    """`head_labels` as a 1 mm NIfTI file whose voxels run along `axes`."""
    image = nib.Nifti1Image(head_labels(), np.diag([1.0, 1, 1, 1]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(image.as_reoriented(turn), path)
    return path


def coarse_bundle(folder: Path) -> Bundle:
    """A copy in `folder` of the brain bundle that runs at 4 mm by default."""
    source = find_bundle("segformer3d_brain")
    copy = Bundle(folder / source.name)
    shutil.copytree(source.path, copy.path, ignore=shutil.ignore_patterns("runs", "eval"))
    config = json.loads(copy.config("inference").read_text())
    copy.config("inference").write_text(json.dumps(config | COARSE, indent=4))
    return copy
