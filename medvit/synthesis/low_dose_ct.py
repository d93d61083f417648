"""Simulation of a CT slice at a lower dose: photon noise in its projections, reconstructed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Linear attenuation of water at about 70 keV, the mean energy of a 120 kV beam, in 1/mm.
WATER = 0.0193
# Added to counts before the logarithm: half a photon cancels its bias at low counts, to first order.
_HALF_A_PHOTON = 0.5


@dataclass(frozen=True)
class Scan:
    """A parallel-beam scan.

    Parameters
    ----------
    dose
        Share of the full dose, above 0 and up to 1.
    noise_index
        Standard deviation (HU) of the photon noise at the centre of the slice at full dose. The tube current
        follows from it, as under automatic exposure control.
    electronic_noise
        Standard deviation of the detector's own noise, in photons.
    cutoff
        Where the Hann window of the reconstruction reaches zero, as a share of the Nyquist frequency: low is
        a soft kernel, high a sharp one; infinite is the bare ramp.
    views
        Projections over half a turn; by default as many as the slice has pixels from edge to edge, times
        pi / 2, so that they sample its rim as densely as its centre.
    """

    dose: float = 0.25
    noise_index: float = 12.0
    electronic_noise: float = 2.0
    cutoff: float = 1.0
    views: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.dose <= 1:
            raise ValueError(f"dose must be a share of the full dose, above 0 and up to 1, not {self.dose}")
        if min(self.noise_index, self.cutoff, self.views or 1) <= 0 or self.electronic_noise < 0:
            raise ValueError("noise_index, cutoff and views must be positive, electronic_noise not negative")


def project(slices: Tensor, views: int) -> Tensor:
    """Line integrals of slices along parallel rays, in units of a pixel's edge.

    Parameters
    ----------
    slices
        (B, H, W), of square pixels.
    views
        Directions, evenly over half a turn.

    Returns
    -------
    Tensor
        (B, views, bins): one bin a pixel's edge wide, as many as cover the diagonal.
    """
    height, width = slices.shape[-2:]
    bins = _bins(height, width)
    top, left = (bins - height) // 2, (bins - width) // 2
    padded = F.pad(slices, (left, bins - width - left, top, bins - height - top))[None]
    turned = slices.new_empty((slices.shape[0], views, bins))
    for view, angle in enumerate(_angles(views)):
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = slices.new_tensor([[[cos, -sin, 0], [sin, cos, 0]]])
        grid = F.affine_grid(matrix, [1, 1, bins, bins], align_corners=False)
        turned[:, view] = F.grid_sample(padded, grid, align_corners=False)[0].sum(dim=1)
    return turned


def reconstruct(sinogram: Tensor, size: tuple[int, int], cutoff: float = math.inf) -> Tensor:
    """Filtered back-projection of line integrals as `project` gives them.

    Parameters
    ----------
    sinogram
        (B, views, bins).
    size
        Height and width of the slices.
    cutoff
        Cutoff of the Hann window, as in `Scan`.

    Returns
    -------
    Tensor
        (B, H, W), per pixel's edge.

    References
    ----------
    Kak, Slaney: Principles of computerized tomographic imaging, IEEE Press 1988, section 3.3.
    """
    height, width = size
    views, bins = sinogram.shape[1:]
    filtered = _filter(sinogram, cutoff)
    centre = (bins - 1) / 2
    ys = torch.arange(height, dtype=sinogram.dtype) + (bins - height) // 2 - centre
    xs = torch.arange(width, dtype=sinogram.dtype) + (bins - width) // 2 - centre
    slices = sinogram.new_zeros((len(sinogram), height * width))
    for view, angle in enumerate(_angles(views)):
        place = (xs * math.cos(angle) + (ys * math.sin(angle))[:, None]).flatten() + centre
        first = place.floor().clamp(0, bins - 2)
        share = (place - first).to(sinogram.device)
        index = first.long().to(sinogram.device)
        row = filtered[:, view]
        slices += torch.lerp(row[:, index], row[:, index + 1], share)
    return (slices * (math.pi / views)).reshape(-1, height, width)


def low_dose(slices: Tensor, spacing: float, scan: Scan, generator: torch.Generator) -> Tensor:
    """CT slices as a scan at a lower dose would show them.

    The slices are projected, photons counted (Poisson), the detector's noise added, and what the counts
    change in the projections is reconstructed and added to the slices. So the slices themselves do not pass
    a second reconstruction, and the result differs from them by noise alone.

    Parameters
    ----------
    slices
        (B, H, W) in HU, of square pixels, taken as free of noise. Below -1000 HU counts as air.
    spacing
        Edge of a pixel in mm.
    scan
        Settings of the scan.
    generator
        Random numbers; the result depends on nothing else.

    Returns
    -------
    Tensor
        (B, H, W) in HU.

    References
    ----------
    Yu, Shiung, Jondal, McCollough: Development and validation of a practical lower-dose-simulation tool for
    optimizing CT scan protocols, Journal of Computer Assisted Tomography 36, 2012.
    """
    views = scan.views or math.ceil(math.pi / 2 * max(slices.shape[-2:]))
    integrals = project((slices / 1000 + 1).clamp(min=0) * WATER, views) * spacing
    return slices + photon_noise(integrals, (slices.shape[1], slices.shape[2]), spacing, scan, generator)


def photon_noise(
    integrals: Tensor, size: tuple[int, int], spacing: float, scan: Scan, generator: torch.Generator
) -> Tensor:
    """The noise (B, H, W) in HU that a scan leaves in slices with these line integrals (B, views, bins)."""
    photons = scan.dose * _photons_at_full_dose(integrals, spacing, scan)
    expected = photons * (-integrals).exp()
    counts = torch.poisson(expected, generator)
    counts += scan.electronic_noise * torch.randn(counts.shape, generator=generator, device=counts.device)
    error = (photons / (counts.clamp(min=0) + _HALF_A_PHOTON)).log() - integrals
    return reconstruct(error, size, scan.cutoff) / spacing * (1000 / WATER)


def _photons_at_full_dose(integrals: Tensor, spacing: float, scan: Scan) -> Tensor:
    """Photons a ray (B, 1, 1) for which the noise at the centre of the slice is that of the scan."""
    views, bins = integrals.shape[1:]
    impulse = integrals.new_zeros((1, 1, bins))
    impulse[..., bins // 2] = 1
    power = _filter(impulse, scan.cutoff).square().sum()
    # Variance of a ray's logarithm is one over its counts.
    rays = integrals[..., bins // 2].exp().sum(dim=1)[:, None, None]
    deviation = scan.noise_index / 1000 * WATER * spacing
    return rays * power * (math.pi / views / deviation) ** 2


def _filter(sinogram: Tensor, cutoff: float) -> Tensor:
    """The band-limited ramp, and a Hann window on it, along the last axis."""
    bins = sinogram.shape[-1]
    length = 1 << (2 * bins - 1).bit_length()
    distance = torch.fft.fftfreq(length, 1 / length)
    ramp = torch.where(distance % 2 == 1, -1 / (math.pi * distance).square(), 0.0)
    ramp[0] = 0.25
    response = torch.fft.rfft(ramp).real
    share = torch.linspace(0, 1, len(response)) / cutoff
    response = response * torch.where(share < 1, (1 + torch.cos(math.pi * share)) / 2, 0.0)
    spectrum = torch.fft.rfft(sinogram, length) * response.to(sinogram.device)
    return torch.fft.irfft(spectrum, length)[..., :bins]


def _angles(views: int) -> list[float]:
    return [math.pi * view / views for view in range(views)]


def _bins(height: int, width: int) -> int:
    return math.ceil(math.hypot(height, width)) + 1
