"""Planes across thick slices, to train super-resolution on: what is degraded, and along which axis."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.synthesis.restoration import RestorationDataset
from medvit.synthesis.thick_slices import CoarsePixels, ThickSlices
from tests.phantoms import write_head


@pytest.fixture(scope="module")
def label_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_head(tmp_path_factory.mktemp("maps") / "head.nii.gz")


def test_only_the_last_axis_is_degraded(label_map: Path) -> None:
    source = ThickSlices([label_map], size=64, steps=(5.0, 5.0), noise=(1e-6, 2e-6))
    across, within = [], []
    for seed in range(8):
        degraded, clean = source(torch.Generator().manual_seed(seed))
        assert degraded.shape == (2, 64, 64) and clean.shape == (64, 64)
        assert torch.equal(degraded[1], degraded[1, :1].expand(64, 64))
        steps = [image.diff(dim=axis).abs().mean() for axis in (0, 1) for image in (degraded[0], clean)]
        within.append(float(steps[0] / steps[1]))
        across.append(float(steps[2] / steps[3]))
    assert np.mean(across) < 0.8 * np.mean(within)


def test_thin_slices_leave_a_plane_as_it_is(label_map: Path) -> None:
    source = ThickSlices([label_map], size=64, steps=(1.0, 1.0), noise=(1e-6, 2e-6))
    degraded, clean = source(torch.Generator().manual_seed(0))
    assert (degraded[0] - clean).abs().mean() < 0.01


def test_real_images_are_scaled_mirrored_and_chosen(label_map: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name, bright in (("a", 1.0), ("b", 50_000.0)):
        voxels = (rng.random((30, 34, 26)) * bright).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "images" / f"{name}.nii.gz")
    source = ThickSlices([label_map], str(tmp_path / "images"), share=1.0, size=64, noise=(1e-6, 2e-6))
    for seed in range(4):
        degraded, clean = source(torch.Generator().manual_seed(seed))
        assert clean.shape == (64, 64) and 0.3 < clean.max() <= 1.5
        assert torch.isfinite(degraded).all()
    same = source(torch.Generator().manual_seed(3))[0]
    assert torch.equal(same, degraded)


def test_samples_are_never_turned(label_map: Path) -> None:
    source = ThickSlices([label_map], size=64)
    for sample in RestorationDataset(source, 1, (32, 32), window=(0, 1), samples=8, seed=2)[0]:
        distances = sample["image"][1]
        assert torch.equal(distances, distances[:1].expand(32, 32))
        assert sample["label"].shape == (1, 32, 32) and (distances.diff(dim=1) > 0).float().mean() > 0.3


def test_coarse_pixels_hold_the_lower_half_of_the_frequencies(label_map: Path) -> None:
    source = CoarsePixels([label_map], size=64, noise=(1e-6, 2e-6))
    degraded, clean = source(torch.Generator().manual_seed(0))
    assert degraded.shape == clean.shape == (64, 64)
    kept, given = (torch.fft.fftshift(torch.fft.fft2(image)).abs() for image in (degraded, clean))
    inside = slice(17, 48)
    # The magnitude folds up what rings below 0, which is little.
    off = (kept - given)[inside, inside].square().sum() / given[inside, inside].square().sum()
    assert off < 1e-4 and kept[:15].sum() < 0.02 * given[:15].sum()
    with pytest.raises(ValueError, match="no whole number of pixels 2 wide"):
        CoarsePixels([label_map], size=63)
