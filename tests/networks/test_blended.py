"""The adapter of networks that restore one of their channels: what it adds, and what it blends in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medvit.networks import HAT, BlendedRestorer
from medvit.networks.blended import noise_along_rows


class _Adds(nn.Module):
    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = torch.tensor(values).reshape(1, -1, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.values


def _noisy(deviation: float, seed: int = 0) -> Tensor:
    """Tissue with an edge in air, (1, 1, 256, 64), and normal noise everywhere."""
    tissue = torch.zeros(1, 1, 256, 64)
    tissue[..., 8:248, 8:56] = 0.5
    tissue[..., 8:128, 8:56] = 0.6
    return tissue + deviation * torch.randn(tissue.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("deviation", [0.0, 0.05, 0.1])
def test_the_noise_of_tissue_is_found(deviation: float) -> None:
    smooth = _noisy(0.0)
    measured = _noisy(deviation)
    measured[smooth == 0] = 0
    found = noise_along_rows(torch.cat([measured, measured]), torch.cat([smooth, smooth]))
    assert found.shape == (2, 1, 1, 1)
    assert found.flatten().tolist() == pytest.approx([deviation] * 2, rel=0.2, abs=0.003)
    assert noise_along_rows(measured, torch.zeros_like(smooth)).item() == 0


def test_detail_is_added_and_the_smooth_image_comes_in_by_its_share() -> None:
    sharp, smooth = _noisy(0.05, 1), _noisy(0.0)
    noise = noise_along_rows(sharp, smooth)
    image = torch.cat([sharp, smooth, sharp], dim=1)
    for half_noise, wanted_share in (
        (1e-3, 1.0),
        (1e6, 0.0),
        (float(noise), 0.5),
        (float(noise) / 2, 256 / 257),
    ):
        for residue, share in ((0.0, 0.0), (0.25, 0.0), (0.1, -0.2)):
            restored = BlendedRestorer(_Adds(residue, share, 7.0), half_noise)(image)
            wanted = sharp + residue + (wanted_share + share) * (smooth - sharp)
            torch.testing.assert_close(restored, wanted, rtol=1e-4, atol=1e-5)


def test_every_channel_guides_the_network() -> None:
    torch.manual_seed(0)
    hat = HAT(4, 1, 12, (1,), (2,), 8, 2, 6, 1.0, drop_path_rate=0.0, residual=True).eval()
    image = 0.2 + 0.8 * torch.rand(1, 4, 16, 16)
    with torch.no_grad():
        restored = BlendedRestorer(hat)(image)
        assert restored.shape == (1, 1, 16, 16)
        for channel in range(4):
            moved = image.clone()
            moved[:, channel] *= 0.5
            assert not torch.allclose(BlendedRestorer(hat)(moved), restored)


def test_no_mean_of_natural_images_is_taken_off_channels_that_are_not_colours() -> None:
    hat = HAT(3, 1, 12, (1,), (2,), 8, 2, 6, 1.0, drop_path_rate=0.0, residual=True).eval()
    nn.init.zeros_(hat.conv_last.weight)
    nn.init.zeros_(hat.conv_last.bias)
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(hat(image), image)
