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
    source = ThickSlices([label_map], size=32, steps=(5.0, 5.0), noise=ALMOST_NO_NOISE, blur=0.0)
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
    source = ThickSlices([label_map], size=32, steps=(1.0, 1.0), noise=ALMOST_NO_NOISE, blur=0.0)
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


def _real_blocks(folder: Path, label_map: Path, **options: float) -> list[np.ndarray]:
    """Sharp blocks of a real image with an edge between two tissues and no air."""
    folder.mkdir()
    voxels = np.full((24, 24, 24), 60.0, np.float32)
    voxels[12:] = 100.0
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "tissues.nii.gz")
    source = ThickSlices([label_map], folder, share=1.0, size=24, noise=ALMOST_NO_NOISE, **options)
    return [source(torch.Generator().manual_seed(seed))[1].numpy() for seed in range(12)]


def test_sharp_blocks_are_blurred_by_random_amounts(label_map: Path, tmp_path: Path) -> None:
    def edge(block: np.ndarray) -> float:
        steepest = max(float(np.abs(np.diff(block, axis=axis)).max()) for axis in range(3))
        return steepest / float(np.ptp(block))

    sharp = [edge(block) for block in _real_blocks(tmp_path / "sharp", label_map, blur=0.0, stripped=0.0)]
    blurred = [edge(block) for block in _real_blocks(tmp_path / "blurred", label_map, blur=1.5, stripped=0.0)]
    assert min(sharp) > 0.9
    assert min(blurred) < 0.4 and max(blurred) - min(blurred) > 0.3


def test_stripped_blocks_are_exactly_0_outside_a_shape(label_map: Path, tmp_path: Path) -> None:
    whole = _real_blocks(tmp_path / "whole", label_map, stripped=0.0)
    assert all((block != 0).all() for block in whole)
    shares = [float((block == 0).mean()) for block in _real_blocks(tmp_path / "cut", label_map, stripped=1.0)]
    assert all(0.03 < share < 0.55 for share in shares)


def test_a_random_part_of_the_noise_of_real_images_is_taken_out(label_map: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 2.0, (24, 24, 24)).astype(np.float32)
    nib.save(nib.Nifti1Image(100 + noise, np.eye(4)), tmp_path / "noisy.nii.gz")
    source = ThickSlices([label_map], tmp_path, share=1.0, size=24, blur=0.0, stripped=0.0)
    blocks = [source(torch.Generator().manual_seed(seed))[1] for seed in range(12)]
    left = sorted(float((block / block.mean()).std()) for block in blocks)
    assert left[0] < 0.01


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
    source = CoarsePixels([label_map], size=32, noise=ALMOST_NO_NOISE, blur=0.0, stripped=0.0)
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
