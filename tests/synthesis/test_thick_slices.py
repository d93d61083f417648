"""Blocks to train super-resolution on: what is degraded, and along which axis."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.synthesis.thick_slices import CoarsePixels, RefinedPlanes, ThickSlices
from tests.phantoms import write_head

ALMOST_NO_NOISE = (1e-6, 2e-6)


@pytest.fixture(scope="module")
def label_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_head(tmp_path_factory.mktemp("maps") / "head.nii.gz")


def test_only_the_last_axis_is_degraded(label_map: Path) -> None:
    source = ThickSlices([label_map], size=32, steps=(5.0, 5.0), noise=ALMOST_NO_NOISE)
    change = np.zeros((2, 3))
    for seed in range(6):
        degraded, clean = source(torch.Generator().manual_seed(seed))
        assert degraded.shape == (4, 32, 32, 32) and clean.shape == (32, 32, 32)
        assert torch.equal(degraded[3], degraded[3, :1, :1].expand(32, 32, 32))
        for row, image in zip(change, (degraded[2], clean), strict=True):
            row += [float(image.diff(dim=axis).abs().mean()) for axis in range(3)]
    x, y, z = change[0] / change[1]
    assert z < 0.8 * min(x, y)


def test_thin_slices_leave_a_block_as_it_is(label_map: Path) -> None:
    source = ThickSlices([label_map], size=32, steps=(1.0, 1.0), noise=ALMOST_NO_NOISE)
    degraded, clean = source(torch.Generator().manual_seed(0))
    for shown in (degraded[0], degraded[2]):
        assert (shown - clean).abs().mean() < 0.01


def test_real_images_are_scaled_mirrored_and_chosen(label_map: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name, bright in (("a", 1.0), ("b", 50_000.0)):
        voxels = (rng.random((20, 34, 16)) * bright).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "images" / f"{name}.nii.gz")
    source = ThickSlices([label_map], str(tmp_path / "images"), share=1.0, size=24, noise=ALMOST_NO_NOISE)
    for seed in range(4):
        degraded, clean = source(torch.Generator().manual_seed(seed))
        assert clean.shape == (24, 24, 24) and 0.3 < clean.max() <= 1.5
        assert torch.isfinite(degraded).all()
    assert torch.equal(source(torch.Generator().manual_seed(3))[0], degraded)


def test_planes_across_slices_end_with_their_normal(label_map: Path) -> None:
    source = ThickSlices([label_map], size=24)
    dataset = RefinedPlanes(source, 1, (16, 20), samples=6, seed=2)
    for plane in dataset[0]:
        assert plane["image"].shape == (4, 16, 20) and plane["label"].shape == (1, 16, 20)
        distances = plane["image"][3]
        assert torch.equal(distances, distances[:1].expand(16, 20))
        assert (distances.diff(dim=1) > 0).float().mean() > 0.3
    with pytest.raises(ValueError, match="do not fit blocks 24 wide"):
        RefinedPlanes(source, 1, (16, 25))
    again = RefinedPlanes(source, 1, (16, 20), samples=6, seed=2)[0]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(dataset[0], again, strict=True))


def test_coarse_pixels_hold_the_lower_half_of_the_frequencies(label_map: Path) -> None:
    source = CoarsePixels([label_map], size=32, noise=ALMOST_NO_NOISE)
    degraded, clean = source(torch.Generator().manual_seed(0))
    assert degraded.shape == (3, 32, 32, 32) and source.plane_axes == (2,)
    shown, sharp = degraded[2, :, :, 16], clean[:, :, 16]
    kept, given = (torch.fft.fftshift(torch.fft.fft2(image)).abs() for image in (shown, sharp))
    inside = slice(9, 24)
    # The magnitude folds up what rings below 0, which is little.
    off = (kept - given)[inside, inside].square().sum() / given[inside, inside].square().sum()
    assert off < 1e-4 and kept[:7].sum() < 0.02 * given[:7].sum()
    with pytest.raises(ValueError, match="no whole number of pixels 2 wide"):
        CoarsePixels([label_map], size=31)
