"""Pairs of degraded and clean slices as a MONAI dataset, made without patient images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.synthesis.atlas import brain_anatomy, read_head_map
from medvit.synthesis.body_phantom import BodyPhantom
from medvit.synthesis.generator import Synthesizer
from medvit.synthesis.low_dose_ct import Scan, low_dose
from medvit.synthesis.seeded import SeededDataset
from medvit.synthesis.settings import SynthesisSettings
from medvit.transforms.region_channel import add_region_channel

# A clean slice must be free of these, because a network would learn to keep them.
FAULTS = ("noise", "thick_slices", "crop", "wrap", "ringing", "motion", "zero", "deface", "shading")
# In slices with air, some pixels are 0 as well.
_MASKED_SHARE = 0.05

Source = Callable[[torch.Generator], tuple[Tensor, Tensor]]


class LowDoseSlices:
    """Slices of synthetic bodies at full dose, and scans of them at a random dose, size and kernel.

    The full dose has noise of its own, as real scans have. A network that learns from such pairs
    preserves the noise of the full dose, and with it the finest detail.

    Parameters
    ----------
    size
        Pixels along both edges.
    spacing
        Range of the pixel's edge in mm.
    doses, noise_indices, cutoffs
        Ranges of the fields of `Scan`.
    own_noise
        Range of the standard deviation of the noise at full dose, in HU.
    """

    def __init__(
        self,
        size: int = 128,
        spacing: tuple[float, float] = (0.7, 3.2),
        doses: tuple[float, float] = (0.1, 1.0),
        noise_indices: tuple[float, float] = (6.0, 40.0),
        cutoffs: tuple[float, float] = (0.7, 2.5),
        own_noise: tuple[float, float] = (2.0, 18.0),
    ) -> None:
        self.phantom = BodyPhantom(size)
        self.spacing, self.doses = spacing, doses
        self.noise_indices, self.cutoffs, self.own_noise = noise_indices, cutoffs, own_noise

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A slice at a low and at the full dose, (size, size) each, in HU within [-1024, 3071]."""
        clean = self.phantom(generator)
        own = torch.randn(clean.shape, generator=generator) * log_uniform(self.own_noise, generator)
        clean = clean + torch.where(clean > -900, own, 0.2 * own)
        scan = Scan(
            dose=log_uniform(self.doses, generator),
            noise_index=log_uniform(self.noise_indices, generator),
            cutoff=log_uniform(self.cutoffs, generator),
        )
        noisy = low_dose(clean[None], log_uniform(self.spacing, generator), scan, generator)[0]
        return noisy.clamp(-1024, 3071), clean.clamp(-1024, 3071)


class NoisyMRSlices:
    """Axial slices of generated heads in any contrast, and what a noisier scan shows of them.

    The magnitude of a complex signal with normal noise in both parts is Rician. Half of the slices have noise
    that varies smoothly, as parallel imaging leaves it, half have noise with a grain, as interpolation of
    k-space leaves it, and in some everything outside the head is exactly 0, as after masking.

    The target is the magnitude to be expected of a scan with a share of the noise. So air stays a little
    above 0, as in any magnitude image, and a network does not learn values around 0 for it, half of which
    would be negative.

    Parameters
    ----------
    label_maps
        NIfTI files with FreeSurfer labels at 1 mm.
    size
        Pixels along both edges.
    spacings
        Edges of a pixel in mm to choose from.
    noise
        Range of the noise's standard deviation, as a share of the brightest tissue.
    remaining
        Share of the noise to which the target's floor belongs.
    masked
        Share of the slices with air of no signal at all whose air has no noise either.

    References
    ----------
    Gudbjartsson, Patz: The Rician distribution of noisy MRI data, Magnetic Resonance in Medicine 34, 1995.
    """

    def __init__(
        self,
        label_maps: Sequence[str | Path],
        size: int = 112,
        spacings: Sequence[float] = (0.8, 1.0, 1.5, 2.0),
        noise: tuple[float, float] = (0.004, 0.15),
        remaining: float = 0.1,
        masked: float = 0.5,
    ) -> None:
        anatomy = brain_anatomy()
        settings = SynthesisSettings((size, size, 1), texture=0.015, translation=40.0).without(*FAULTS)
        # Without a signal in part of the slices' air: masks hide it, or there was none.
        settings = replace(settings, zero=0.5)
        self.synthesizers = [Synthesizer(anatomy, replace(settings, spacing=s)) for s in spacings]
        self.heads = [read_head_map(path, anatomy) for path in label_maps]
        self.noise, self.remaining, self.masked = noise, remaining, masked

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A slice with and almost without noise, (size, size) each; the brightest tissue is about 1."""
        head, synthesizer = (choose(options, generator) for options in (self.heads, self.synthesizers))
        clean = synthesizer(head, generator)[0][0, :, :, 0]
        deviation = torch.full_like(clean, log_uniform(self.noise, generator))
        if torch.rand(1, generator=generator) < 0.5:
            knots = torch.randn((1, 1, 4, 4), generator=generator)
            size = [int(n) for n in clean.shape]
            deviation *= (0.4 * F.interpolate(knots, size, mode="bicubic", align_corners=True)[0, 0]).exp()
        parts = torch.randn((2, *clean.shape), generator=generator)
        if torch.rand(1, generator=generator) < 0.5:
            parts = grainy(parts, generator)
        parts = deviation * parts
        noisy = torch.hypot(clean + parts[0], parts[1])
        target = rician_mean(clean, self.remaining * deviation)
        empty = clean == 0
        if torch.rand(1, generator=generator) < self.masked and empty.float().mean() > _MASKED_SHARE:
            noisy, target = noisy.masked_fill(empty, 0), target.masked_fill(empty, 0)
        return noisy, target


def rician_mean(signal: Tensor, deviation: Tensor) -> Tensor:
    """Expected magnitude of a signal with normal noise of this standard deviation in both of its parts.

    References
    ----------
    Gudbjartsson, Patz: The Rician distribution of noisy MRI data, Magnetic Resonance in Medicine 34, 1995.
    """
    power = (signal / deviation).square() / 4
    bessel = (1 + 2 * power) * torch.special.i0e(power) + 2 * power * torch.special.i1e(power)
    return deviation * math.sqrt(math.pi / 2) * bessel


def grainy(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Noise (2, H, W) with a standard deviation of 1 and nothing beyond an ellipse of spatial frequencies."""
    shares = 0.5 + 0.5 * torch.rand(2, generator=generator)
    along = [2 * torch.fft.fftfreq(n) / share for n, share in zip(noise.shape[1:], shares, strict=True)]
    kept = torch.hypot(along[0][:, None], along[1]) <= 1
    smooth = torch.fft.ifft2(torch.fft.fft2(noise) * kept).real
    return smooth / kept.float().mean().sqrt()


class RestorationDataset(SeededDataset):
    """Samples cut from generated slices, each a function of the seed and its index.

    Parameters
    ----------
    source
        Generator of a degraded and a clean slice (H, W).
    length
        Slices of an epoch.
    sample_shape
        Pixels of a sample.
    window, unit
        Intensities between which regions are told apart, ``None`` for networks that take no regions, and the
        intensity that becomes 1.
    samples
        Samples cut from one slice.
    seed
        Seed of the random numbers; each seed gives different slices.
    """

    def __init__(
        self,
        source: Source,
        length: int,
        sample_shape: Sequence[int] = (64, 64),
        *,
        window: tuple[float, float] | None,
        unit: float = 1.0,
        samples: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(length, seed)
        self.source, self.sample_shape = source, tuple(sample_shape)
        self.window, self.unit = (float(window[0]), float(window[1])) if window else None, unit
        self.samples = samples

    def __getitem__(self, index: int) -> list[dict[str, Tensor]]:
        """``image`` (2, *sample_shape), the degraded slice and its regions, and ``label``, (1, ...).

        Without regions ``image`` has one channel.
        """
        generator = self.generator(self.number(index))
        degraded, clean = self.source(generator)
        image = degraded[None].clone()
        if self.window:
            image = add_region_channel(image, self.window)
        image[0] /= self.unit
        pair = torch.cat([image, clean[None] / self.unit])
        crops = [_turned(self._crop(pair, generator), generator) for _ in range(self.samples)]
        return [{"image": crop[:-1].contiguous(), "label": crop[-1:].contiguous()} for crop in crops]

    def _crop(self, pair: Tensor, generator: torch.Generator) -> Tensor:
        """A window of the slice around a pixel that is brighter than most, so that it is not all air."""
        bright = torch.nonzero(pair[-1] >= pair[-1].mean())
        centre = bright[torch.randint(len(bright), (1,), generator=generator)[0]].tolist()
        for axis, (middle, part) in enumerate(zip(centre, self.sample_shape, strict=True), 1):
            first = min(max(middle - part // 2, 0), pair.shape[axis] - part)
            pair = pair.narrow(axis, first, part)
        return pair


def _turned(crop: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight orientations of a square; an oblong is only flipped."""
    flips = [axis for axis in (1, 2) if torch.rand(1, generator=generator) < 0.5]
    crop = crop.flip(flips)
    transposed = torch.rand(1, generator=generator) < 0.5 and crop.shape[1] == crop.shape[2]
    return crop.transpose(1, 2) if transposed else crop


def choose(options: Sequence[Any], generator: torch.Generator) -> Any:
    """One of `options`, each with the same chance."""
    return options[int(torch.randint(len(options), (1,), generator=generator))]


def log_uniform(limits: tuple[float, float], generator: torch.Generator) -> float:
    """A number whose logarithm is uniform between those of `limits`."""
    low, high = limits
    return low * math.exp(float(torch.rand(1, generator=generator)) * math.log(high / low))
