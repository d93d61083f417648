"""Pairs to train restorers on: degraded as physics has it, cut alike, the same for the same seed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from medvit.synthesis.restoration import LowDoseSlices, NoisyMRSlices, RestorationDataset
from tests.phantoms import write_head


def test_samples_are_pairs_with_regions() -> None:
    dataset = RestorationDataset(LowDoseSlices(64), 2, (32, 32), window=(-160, 240), unit=250.0, samples=3)
    samples = dataset[1]
    assert len(samples) == 3
    for sample in samples:
        image, label = sample["image"], sample["label"]
        assert image.shape == (2, 32, 32) and label.shape == (1, 32, 32)
        assert torch.equal(image[1], image[1].round()) and image[1].min() >= 1
        assert label.min() >= -1024 / 250 and label.max() <= 3071 / 250
        assert 0 < (image[:1] - label).abs().mean() < 0.5
    again = RestorationDataset(LowDoseSlices(64), 1, (32, 32), window=(-160, 240), unit=250.0, samples=3)
    again.offset = 1
    assert torch.equal(again[0][2]["image"], samples[2]["image"])
    with pytest.raises(IndexError):
        dataset[2]


def test_regions_belong_to_their_pixels() -> None:
    def halves(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        clean = torch.zeros(48, 48)
        clean[:, 24:] = 1
        return clean, clean

    for sample in RestorationDataset(halves, 1, (48, 48), window=(0, 1), samples=8)[0]:
        image, regions = sample["image"]
        assert 2 <= len(torch.unique(regions)) < 6
        inner = torch.nn.functional.avg_pool2d(image[None], 9, 1, 4)[0]
        left, right = (torch.unique(regions[side]) for side in (inner < 0.01, inner > 0.99))
        assert not set(left.tolist()) & set(right.tolist())


def test_noise_of_magnitude_images_is_rician(tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.nii.gz")
    source = NoisyMRSlices([head], 48, spacings=(2.0,), noise=(0.05, 0.05))
    pairs = [source(torch.Generator().manual_seed(seed)) for seed in range(60)]
    noisy, clean = (torch.stack(images) for images in zip(*pairs, strict=True))
    assert clean.min() >= 0 and clean.max() <= 1 and noisy.min() >= 0
    air = clean == 0
    assert air.float().mean() > 0.05
    # Half of the slices have noise that varies from place to place, so only about as large.
    assert noisy[air].mean() == pytest.approx(0.05 * math.sqrt(math.pi / 2), rel=0.15)
    bright = clean > 0.5
    assert abs(float((noisy - clean)[bright].mean())) < 0.01
