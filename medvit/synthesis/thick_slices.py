"""Pairs of coarse and sharp images for super-resolution: thick slices across, or coarse pixels within."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.studies import Study, find_studies, read_study
from medvit.synthesis.atlas import brain_anatomy, read_head_map
from medvit.synthesis.generator import Synthesizer
from medvit.synthesis.restoration import FAULTS, choose, log_uniform
from medvit.synthesis.settings import SynthesisSettings
from medvit.transforms.through_plane import SliceStack, along


class SharpPlanes(ABC):
    """Planes of sharp images, and what a coarse acquisition shows of them on a finer grid.

    Sharp images are generated heads in any contrast, and planes of real images, whose intensities are
    remapped at random in half of the samples.

    Parameters
    ----------
    label_maps
        NIfTI files with FreeSurfer labels at 1 mm.
    images
        Folder of real images (NIfTI) of about 1 mm; none by default.
    share
        Share of the samples that show a real image.
    size
        Pixels along both edges of a plane.
    spacings
        Edges of a pixel in mm to choose from. Slices are as thick in pixels as in mm at 1 mm.
    noise
        Range of the noise's standard deviation in the coarse image, as a share of the brightest tissue; half
        of the samples have none.
    """

    def __init__(
        self,
        label_maps: Sequence[str | Path],
        images: str | Path = "",
        share: float = 0.5,
        size: int = 112,
        spacings: Sequence[float] = (0.8, 1.0, 1.2),
        noise: tuple[float, float] = (0.005, 0.06),
    ) -> None:
        anatomy = brain_anatomy()
        settings = SynthesisSettings(texture=0.03, translation=40.0, blur=0.3).without(*FAULTS)
        shapes = [(1, size, size), (size, 1, size), (size, size, 1)]
        self.synthesizers = [
            Synthesizer(anatomy, replace(settings, shape=shape, spacing=s))
            for s in spacings
            for shape in shapes
        ]
        self.heads = [read_head_map(path, anatomy) for path in label_maps]
        self.images = [_scaled(study) for study in find_studies(images).studies] if images else []
        self.share = share if self.images else 0.0
        self.size, self.noise = size, noise

    @abstractmethod
    def acquired(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The input of a network: what the acquisition shows of a plane, on the grid of the plane."""

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The input of a network, and the sharp plane, (size, size). The brightest tissue is about 1."""
        real = bool(torch.rand(1, generator=generator) < self.share)
        clean = self._real(generator) if real else self._generated(generator)
        flips = [axis for axis in (0, 1) if torch.rand(1, generator=generator) < 0.5]
        clean = clean.flip(flips)
        if torch.rand(1, generator=generator) < 0.5:
            clean = clean.T
        return self.acquired(clean, generator), clean

    def _noisy(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The magnitude of an image, in half of the samples with noise in both of its parts."""
        if torch.rand(1, generator=generator) < 0.5:
            return image.abs()
        deviation = log_uniform(self.noise, generator)
        parts = deviation * torch.randn((2, *image.shape), generator=generator)
        return torch.hypot(image + parts[0], parts[1])

    def _generated(self, generator: torch.Generator) -> Tensor:
        synthesizer = choose(self.synthesizers, generator)
        return synthesizer(choose(self.heads, generator), generator)[0].reshape(self.size, self.size)

    def _real(self, generator: torch.Generator) -> Tensor:
        image = choose(self.images, generator)
        axis = int(torch.randint(3, (1,), generator=generator))
        middle = image.shape[axis]
        # The outer quarter of a head is skin and air.
        number = middle // 8 + int(torch.randint(max(middle * 3 // 4, 1), (1,), generator=generator))
        plane = _mirrored(image.select(axis, number), self.size, generator)
        return _recoloured(plane, generator) if torch.rand(1, generator=generator) < 0.5 else plane


class ThickSlices(SharpPlanes):
    """Planes across thick slices: one axis of the slices' own and, as the last axis, their normal.

    Parameters
    ----------
    args, options
        As of `SharpPlanes`.
    steps
        Range of the distance between slices, in pixels.
    """

    def __init__(self, *args: Any, steps: tuple[float, float] = (1.5, 7.0), **options: Any) -> None:
        super().__init__(*args, **options)
        self.steps = steps

    def acquired(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """(2, H, W): the plane on the finer grid, and how far each pixel is from the nearest slice.

        Distances are those of `SliceStack.distances`.
        """
        chance = torch.rand(3, generator=generator).tolist()
        step = log_uniform(self.steps, generator)
        size = clean.shape[1]
        count = max(4, math.floor(size / step))
        # At any offset, not where the grid of a study would begin: offsets depend on the numbers of slices.
        first = step / 2 - 0.5 + chance[0] * max(size - count * step, 0)
        thickness = step * (0.7 + 0.3 * min(2 * chance[1], 1) + 0.2 * max(2 * chance[1] - 1, 0))
        true = SliceStack(count, step, thickness, size, 1.0, first, "box" if chance[2] < 0.5 else "gauss")
        slices = self._noisy(along(true.acquire(), clean, 1), generator)
        # The profile of a real study is unknown, so the estimate always takes it as even.
        assumed = replace(true, profile="box")
        refined = along(assumed.refine(), slices, 1)
        distances = torch.from_numpy(assumed.distances()).float().expand_as(refined)
        return torch.stack([refined, distances])


class CoarsePixels(SharpPlanes):
    """Slices of which the lower spatial frequencies alone are measured along both axes.

    Parameters
    ----------
    args, options
        As of `SharpPlanes`.
    factor
        Edge of a coarse pixel in pixels of the sharp image, whose edge is a multiple of it.
    """

    def __init__(self, *args: Any, factor: int = 2, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.size % factor:
            raise ValueError(f"a plane of {self.size} pixels has no whole number of pixels {factor} wide")
        count = self.size // factor
        self.stack = SliceStack(count, factor, factor, self.size, 1.0, 0.0, "kspace")

    def acquired(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """(H, W): the coarse slice, zero-filled."""
        for axis in (0, 1):
            clean = along(self.stack.acquire(), clean, axis)
        coarse = self._noisy(clean, generator)
        for axis in (0, 1):
            coarse = along(self.stack.refine(), coarse, axis)
        return coarse


def _scaled(study: Study) -> Tensor:
    """A study's image (X, Y, Z) over its 99.5 percentile."""
    image = read_study(study).image[0].as_tensor().float().clamp_min(0)
    bright = float(np.percentile(image[image > 0].numpy(), 99.5))
    return image / bright


def _mirrored(plane: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A plane cut or mirrored at its edges to a square, from a random place."""
    for axis in (0, 1):
        while plane.shape[axis] < size:
            plane = torch.cat([plane, plane.flip(axis)], dim=axis)
        first = int(torch.randint(plane.shape[axis] - size + 1, (1,), generator=generator))
        plane = plane.narrow(axis, first, size)
    return plane


def _recoloured(plane: Tensor, generator: torch.Generator) -> Tensor:
    """The same shapes in another contrast: intensities through a smooth random curve from 0 up."""
    knots = torch.rand(5, generator=generator)
    knots[0] = 0.1 * knots[0]
    curve = F.interpolate(knots[None, None], size=256, mode="linear", align_corners=True)[0, 0]
    position = plane.clamp(0, 1.2) / 1.2 * 254
    lower = position.long()
    return torch.lerp(curve[lower], curve[lower + 1], position - lower)
