"""Slices of made-up bodies: in HU, seeded, and painted where they should be."""

from __future__ import annotations

import pytest
import torch

from medvit.synthesis.body_phantom import TISSUES, BodyPhantom, _Canvas


def canvas(size: int = 64, seed: int = 0) -> _Canvas:
    """A canvas without warp and texture."""
    made = _Canvas(size, torch.Generator().manual_seed(seed))
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    made.y, made.x = torch.meshgrid(axis, axis, indexing="ij")
    made.texture = torch.zeros(size, size)
    return made


def test_the_generator_determines_the_slice() -> None:
    slices = [BodyPhantom(48)(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert slices[0].shape == (48, 48)
    assert torch.equal(slices[0], slices[1]) and not torch.equal(slices[0], slices[2])


def test_bodies_lie_in_air_and_hold_tissue_within_the_range_of_a_ct() -> None:
    generator = torch.Generator().manual_seed(0)
    slices = torch.stack([BodyPhantom(48)(generator) for _ in range(12)])
    # Texture may exceed the means by a few of its standard deviations of a quarter.
    assert slices.min() > -1150 and slices.max() < 3500
    for one in slices:
        assert (one < -900).any(), "air"
        assert ((one > -150) & (one < 150)).float().mean() > 0.03, "soft tissue"


@pytest.mark.parametrize(("radii", "angle"), [((0.5, 0.5), 0.0), ((0.7, 0.3), 0.0), ((0.7, 0.3), 0.6)])
def test_an_ellipse_has_its_area_and_its_tissue(radii: tuple[float, float], angle: float) -> None:
    made = canvas(256)
    opacity = made.paint("organ", (0.1, -0.05), radii, angle)
    # Of the slice of 2 x 2.
    assert opacity.mean() == pytest.approx(torch.pi * radii[0] * radii[1] / 4, rel=0.02)
    inside = made.hu[opacity == 1]
    low, high = TISSUES["organ"]
    assert inside.unique().numel() == 1 and low <= inside[0] <= high
    assert (made.hu[opacity == 0] == -1000).all()
    y, x = (float((axis * opacity).sum() / opacity.sum()) for axis in (made.y, made.x))
    assert (x, y) == pytest.approx((0.1, -0.05), abs=0.01)


def test_later_tissue_covers_what_lies_below_only_where_it_is_painted() -> None:
    made = canvas()
    made.paint("muscle", (0, 0), (0.8, 0.8))
    before = made.hu.clone()
    half = (made.x > 0).float()
    made.paint("cortex", (0, 0), (0.5, 0.5), within=half)
    assert torch.equal(made.hu[:, :32], before[:, :32])
    assert made.hu[32, 40] >= TISSUES["cortex"][0]


def test_a_structure_thinner_than_a_pixel_still_leaves_a_trace() -> None:
    made = canvas(32)
    assert 0 < made.paint("cortex", (0, 0), (1e-4, 1e-4)).sum() < 4
