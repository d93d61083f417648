"""The simulated dose obeys the physics of photon noise."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import binary_fill_holes

from medvit.synthesis.body_phantom import BodyPhantom, _Canvas, _spine
from medvit.synthesis.low_dose_ct import WATER, Scan, low_dose, project, reconstruct


def ellipse(size: int, wide: float, deep: float, hu: float = 0.0) -> torch.Tensor:
    axis = torch.arange(size) - (size - 1) / 2
    distance = torch.hypot(axis[None] / wide, axis[:, None] / deep)
    return torch.where(distance < 1, hu, -1000.0)


def noise(slices: torch.Tensor, scan: Scan, seed: int = 0) -> torch.Tensor:
    return low_dose(slices, 3.0, scan, torch.Generator().manual_seed(seed)) - slices


def test_line_integrals_are_chords() -> None:
    water = (ellipse(81, 30, 30)[None] / 1000 + 1) * WATER
    integrals = project(water, 12)
    middle = integrals.shape[2] // 2
    torch.testing.assert_close(integrals[..., middle] / WATER, torch.full((1, 12), 60.0), rtol=0.03, atol=0)
    mass = water.sum().expand(1, 12)
    torch.testing.assert_close(integrals.sum(dim=2), mass, rtol=0.002, atol=0)


def test_reconstruction_inverts_projection() -> None:
    axis = torch.linspace(-3, 3, 64)
    smooth = torch.exp(-(axis[None] ** 2) - (axis[:, None] - 1) ** 2)
    oblong = torch.stack([smooth, smooth.T])[:, :, 4:60]
    found = reconstruct(project(oblong, 120), (64, 56))
    assert (found - oblong).abs().max() < 0.02


def test_noise_at_full_dose_is_the_noise_index_and_doubles_at_a_quarter() -> None:
    bodies = ellipse(64, 26, 26).expand(40, -1, -1)
    centre = (slice(None), slice(29, 35), slice(29, 35))
    stds = {
        dose: float(noise(bodies, Scan(dose=dose, electronic_noise=0, views=60))[centre].std())
        for dose in (1.0, 0.25)
    }
    assert stds[1.0] == pytest.approx(12, rel=0.12)
    assert stds[0.25] / stds[1.0] == pytest.approx(2, rel=0.1)


def test_hounsfield_units_stay_where_they_are() -> None:
    bodies = ellipse(64, 26, 18, 40.0).expand(40, -1, -1)
    inside = ellipse(64, 22, 14) > -1
    assert abs(float(noise(bodies, Scan(views=60))[:, inside].mean())) < 0.5


def test_streaks_run_along_the_dense_direction() -> None:
    bodies = ellipse(64, 30, 12, 60.0).expand(40, -1, -1)
    n = noise(bodies, Scan(dose=0.1, cutoff=math.inf, views=60))[:, 28:36, 22:42]
    along = (n[:, :, 1:] * n[:, :, :-1]).mean() / n.var()
    across = (n[:, 1:] * n[:, :-1]).mean() / n.var()
    assert along > across + 0.2


def test_the_seed_alone_decides_and_padding_counts_as_air() -> None:
    body = ellipse(48, 20, 15)
    padded = torch.where(body < -500, -3024.0, body)
    scan = Scan(views=40)
    assert torch.equal(noise(body[None], scan, 1), noise(body[None], scan, 1))
    assert not torch.equal(noise(body[None], scan, 1), noise(body[None], scan, 2))
    torch.testing.assert_close(noise(body[None], scan), noise(padded[None], scan), rtol=0, atol=1e-2)


@pytest.mark.parametrize("wrong", [{"dose": 0.0}, {"dose": 1.5}, {"cutoff": 0.0}, {"electronic_noise": -1.0}])
def test_refuses_what_no_scanner_can_do(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Scan(**wrong)


def test_phantoms_are_bodies_in_air() -> None:
    phantom = BodyPhantom(64)
    slices = torch.stack([phantom(torch.Generator().manual_seed(seed)) for seed in range(12)])
    assert torch.equal(slices[3], phantom(torch.Generator().manual_seed(3)))
    assert slices.min() >= -1100 and 300 < slices.max() < 2500
    tissue = ((slices > -150) & (slices < 250)).flatten(1).float().mean(dim=1)
    assert (tissue > 0.03).all() and tissue.mean() > 0.2
    assert (slices[:, 0] < -800).float().mean() > 0.8


def test_a_spine_has_soft_tissue_within_bone() -> None:
    enclosed = []
    for seed in range(8):
        canvas = _Canvas(128, torch.Generator().manual_seed(seed))
        _spine(canvas, (0, 0), 0.15)
        hu = canvas.finish().numpy()
        inside = binary_fill_holes(hu > 250) & (hu < 60) & (hu > -140)
        enclosed.append(int(inside.sum()))
    assert sum(count > 20 for count in enclosed) >= 6
