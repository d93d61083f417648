"""Non-local means: the definition voxel by voxel, and what blocks, borders and constants make of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from medvit.transforms import non_local
from medvit.transforms.non_local import non_local_mean


def _by_definition(image: np.ndarray, voxel: tuple[int, int, int], strength: float) -> float:
    padded = np.pad(image, 3, mode="symmetric").astype(np.float64)

    def patch(i: int, j: int, k: int) -> np.ndarray:
        return padded[i + 2 : i + 5, j + 2 : j + 5, k + 2 : k + 5]

    own = patch(*voxel)
    total = weights = 0.0
    for offset in itertools.product(range(-2, 3), repeat=3):
        other = patch(*(v + o for v, o in zip(voxel, offset, strict=True)))
        weight = np.exp(-np.mean((other - own) ** 2) / strength**2)
        total += weight * other[1, 1, 1]
        weights += weight
    return total / weights


@pytest.mark.parametrize("block", [4, 32])
def test_every_voxel_is_the_mean_of_what_is_like_it(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(non_local, "_BLOCK", block)
    image = np.random.default_rng(0).random((9, 7, 6)).astype(np.float32)
    found = non_local_mean(torch.from_numpy(image), 0.3).numpy()
    for voxel in itertools.product((0, 4, 8), (0, 3, 6), (0, 2, 5)):
        assert found[voxel] == pytest.approx(_by_definition(image, voxel, 0.3), abs=1e-5)


def test_an_edge_stays_and_noise_goes() -> None:
    clean = torch.zeros(16, 16, 16)
    clean[8:] = 1.0
    noise = 0.03 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    found = non_local_mean(clean + noise, 0.06)
    assert (found - clean).std() < 0.5 * noise.std()
    assert (found[7].mean(), found[8].mean()) == pytest.approx((0.0, 1.0), abs=0.01)


def test_a_volume_thinner_than_a_patch_is_mirrored() -> None:
    image = torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(0))
    found = non_local_mean(image, 10.0)
    assert found.shape == image.shape and torch.isfinite(found).all()
    assert torch.equal(non_local_mean(torch.full((4, 4, 4), 0.7), 0.1), torch.full((4, 4, 4), 0.7))
