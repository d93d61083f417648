"""Pairs to train restorers on: degraded as physics has it, cut alike, the same for the same seed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from medvit.synthesis.restoration import LowDoseSlices, NoisyMRSlices, RestorationDataset, grainy, rician_mean
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


def drawn(head: Path, count: int = 60, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
    source = NoisyMRSlices([head], 48, spacings=(2.0,), noise=(0.05, 0.05), **settings)  # type: ignore[arg-type]
    pairs = [source(torch.Generator().manual_seed(seed)) for seed in range(count)]
    noisy, target = (torch.stack(images) for images in zip(*pairs, strict=True))
    return noisy, target


def test_noise_of_magnitude_images_is_rician(tmp_path: Path) -> None:
    noisy, target = drawn(write_head(tmp_path / "head.nii.gz"), remaining=0.1, masked=0.0)
    # Half of the slices have noise that varies from place to place, so only about as large.
    floor = 0.05 * math.sqrt(math.pi / 2)
    air = target < 0.2 * floor
    assert air.float().mean() > 0.05
    assert noisy[air].mean() == pytest.approx(floor, rel=0.15)
    assert target.min() > 0 and target[air].mean() == pytest.approx(0.1 * floor, rel=0.25)
    bright = target > 0.5
    assert abs(float((noisy - target)[bright].mean())) < 0.01


def test_part_of_the_air_is_masked(tmp_path: Path) -> None:
    noisy, target = drawn(write_head(tmp_path / "head.nii.gz"), masked=1.0)
    masked = [(a == 0).float().mean() > 0.02 for a in noisy]
    assert 0.2 < sum(masked) / len(masked) < 1
    assert torch.equal(noisy == 0, target == 0)


def test_expected_magnitude_is_the_mean_of_many() -> None:
    signal, deviation = torch.tensor([0.0, 0.5, 1.0, 3.0, 50.0]), torch.tensor(0.7)
    noise = deviation * torch.randn((2, 200_000, 1), generator=torch.Generator().manual_seed(0))
    measured = torch.hypot(signal + noise[0], noise[1]).mean(dim=0)
    torch.testing.assert_close(rician_mean(signal, deviation), measured, atol=0.01, rtol=0.0)


def test_a_grain_keeps_the_strength_of_noise() -> None:
    noise = torch.randn((2, 96, 80), generator=torch.Generator().manual_seed(0))
    smooth = grainy(noise, torch.Generator().manual_seed(1))
    assert smooth.std() == pytest.approx(1.0, abs=0.05)
    assert torch.corrcoef(torch.stack([smooth[0, 1:].flatten(), smooth[0, :-1].flatten()]))[0, 1] > 0.1
