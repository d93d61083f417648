"""Each fault of a scan does what it is named after, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from medvit.synthesis.acquisition import blurred, moved, thick_slices, truncated
from medvit.synthesis.draw import Draw


@pytest.fixture
def edge() -> torch.Tensor:
    """A box that is bright for half of the first axis."""
    image = torch.zeros(64, 16, 16)
    image[16:48] = 1
    return image


@pytest.mark.parametrize("bell", [False, True])
def test_thick_slices_blur_one_axis_only(bell: bool) -> None:
    image = torch.zeros(24, 24, 24)
    image[12, 12, 12] = 1
    thick = thick_slices(image, 2, 4.0, bell=bell)
    assert (thick[12, 12] > 0).sum() >= 4
    assert thick[:12].max() == 0
    assert thick[:, :12].max() == 0


def test_bell_shaped_slices_reach_farther_than_even_ones() -> None:
    image = torch.zeros(4, 4, 48)
    image[..., 24] = 1
    reach = [int((thick_slices(image, 2, 6.0, bell=b)[0, 0] > 1e-3).sum()) for b in (False, True)]
    assert reach[1] > reach[0]


def test_slices_differ_in_brightness_by_their_gain() -> None:
    image = torch.ones(4, 4, 40)
    gain = torch.tensor([1.0, 2.0] * 10)
    thick = thick_slices(image, 2, 4.0, gain=gain)
    assert thick.max() > 1.4 and thick.min() < 1.2
    torch.testing.assert_close(thick_slices(image, 2, 4.0), image)


def test_a_truncated_spectrum_rings_along_its_axis_and_keeps_the_mean(edge: torch.Tensor) -> None:
    ringing = truncated(edge, 0, 0.5)
    assert ringing.max() > 1.05 and ringing.min() < -0.05
    assert float(ringing.mean()) == pytest.approx(float(edge.mean()), abs=1e-5)
    torch.testing.assert_close(ringing, ringing[:, :1, :1].expand_as(ringing))
    torch.testing.assert_close(truncated(edge, 1, 0.5), edge, atol=1e-5, rtol=0)


def test_movement_leaves_ghosts_and_the_mean(edge: torch.Tensor) -> None:
    ghost = moved(edge, 0, 4.0, 0.2)
    assert (ghost - edge).abs()[:12].max() > 0.02
    assert float(ghost.mean()) == pytest.approx(float(edge.mean()), abs=1e-5)
    torch.testing.assert_close(moved(edge, 0, 0.0, 0.2), edge, atol=1e-5, rtol=0)


def test_each_sample_is_blurred_by_its_own_width() -> None:
    image = torch.zeros(2, 17, 17, 17)
    image[:, 8, 8, 8] = 1
    draw = Draw(torch.Generator().manual_seed(0), 2, torch.device("cpu"))
    sharp, wide = blurred(image, draw, torch.tensor([[1e-3] * 3, [1.0, 1e-3, 1e-3]]))
    torch.testing.assert_close(sharp, image[0])
    expected = torch.exp(-0.5 * torch.arange(-8.0, 9.0) ** 2) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(wide[:, 8, 8], expected, atol=5e-3, rtol=0)
    assert wide[8].count_nonzero() == 1


def test_choices_do_not_depend_on_where_noise_is_drawn() -> None:
    draws = [Draw(torch.Generator().manual_seed(5), 4, torch.device("cpu")) for _ in range(2)]
    draws[0].field(3, 3)  # noise in between changes no choice
    assert torch.equal(draws[0].uniform(0, 1), draws[1].uniform(0, 1))
    assert draws[0].chosen(0.5) == draws[1].chosen(0.5)
    many = Draw(torch.Generator().manual_seed(1), 4000, torch.device("cpu"))
    assert len(many.chosen(0.3)) == pytest.approx(1200, abs=100)
    shares = torch.bincount(many.pick([0.7, 0.2, 0.1]), minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.03, rtol=0)
