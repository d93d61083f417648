"""Masked windows: which voxels are hidden, which count, and what the loss makes of them."""

from __future__ import annotations

import pytest
import torch

from medvit.training.masking import MaskedWindows, WindowSampler, masked_l1


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_share_of_masked_cells_is_exact_and_all_else_stays() -> None:
    sampler = WindowSampler([noise(1, 16, 16, 16)], (8, 8, 8), cell=4, mask_ratio=0.5)
    windows = sampler.batch(3, size=5)
    assert windows.target.shape == windows.masked.shape == (5, 1, 8, 8, 8)
    changed = windows.masked != windows.target
    assert torch.equal(changed, windows.mask)
    # Of the 8 cells of 4 x 4 x 4 voxels of each window, 4.
    assert changed.flatten(1).sum(1).tolist() == [4 * 64] * 5
    cells = changed.float().unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4).flatten(-3).mean(-1)
    assert set(cells.unique().tolist()) == {0.0, 1.0}


def test_a_step_depends_on_the_seed_and_its_number_alone() -> None:
    volumes = [noise(1, 12, 12, 12, seed=n) for n in range(3)]
    one, other = WindowSampler(volumes, (8, 8, 8)), WindowSampler(volumes, (8, 8, 8))
    one.batch(0, 2)
    assert torch.equal(one.batch(7, 2).masked, other.batch(7, 2).masked)
    assert not torch.equal(other.batch(7, 2).target, other.batch(8, 2).target)
    assert not torch.equal(
        other.batch(7, 2).target, WindowSampler(volumes, (8, 8, 8), seed=1).batch(7, 2).target
    )


def test_padding_and_empty_cells_never_count() -> None:
    small = WindowSampler([noise(1, 4, 8, 8)], (8, 8, 8), cell=4, mask_ratio=1.0)
    windows = small.batch(0, 3)
    padded = (windows.target == 0).all(dim=1, keepdim=True)
    assert padded.float().mean() == 0.5
    assert not windows.mask[padded].any() and windows.mask[~padded].all()
    half = torch.cat([noise(1, 8, 8, 8), torch.full((1, 8, 8, 8), 3.0)], dim=1)
    windows = WindowSampler([half], (16, 8, 8), cell=8, mask_ratio=1.0).batch(0, 2)
    assert torch.equal(windows.mask, windows.target != 3.0)


def test_slices_have_two_axes() -> None:
    volume = torch.arange(5.0).repeat(8, 8, 1)[None] + 0.01 * noise(1, 8, 8, 5)
    windows = WindowSampler([volume], (4, 4), cell=2, slice_axis=2).batch(0, 6)
    assert windows.target.shape == (6, 1, 4, 4)
    # Each window lies in one slice, whose number its values have.
    assert all(window.std() < 0.1 for window in windows.target)
    assert len({round(float(window.mean())) for window in windows.target}) > 1


def test_the_error_is_the_mean_within_the_mask() -> None:
    target = torch.zeros(1, 2, 1, 1, 4)
    prediction = torch.tensor([[[[[1.0, 2.0, 3.0, 4.0]]], [[[3.0, 2.0, 1.0, 0.0]]]]])
    mask = torch.tensor([True, False, False, True]).reshape(1, 1, 1, 1, 4)
    # Over both channels: (1 + 3) / 2 and (4 + 0) / 2.
    assert float(masked_l1(prediction, MaskedWindows(target, target, mask))) == pytest.approx(2.0)
    assert float(masked_l1(prediction, MaskedWindows(target, target, torch.zeros_like(mask)))) == 0.0
