"""Pairs of coarse and sharp images for super-resolution: thick slices, or coarse pixels within slices."""

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
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medvit.studies import Study, find_studies, read_study
from medvit.synthesis.atlas import brain_anatomy, read_head_map
from medvit.synthesis.generator import Synthesizer
from medvit.synthesis.restoration import FAULTS, choose, log_uniform
from medvit.synthesis.seeded import SeededDataset
from medvit.synthesis.settings import SynthesisSettings
from medvit.transforms.non_local import non_local_mean
from medvit.transforms.slice_stack import SliceStack, along, network_input, refined_along

# Strength of the non-local mean that takes out a real image's own noise, as a share of its brightest tissue.
_OWN_NOISE = 0.06
# Blocks in which fewer voxels than this share are brighter than air teach nothing.
_AIR, _LEAST_SEEN = 0.1, 0.05


class SharpBlocks(ABC):
    """Blocks of sharp images, with a coarse acquisition of them on a finer grid.

    Sharp images are blocks of generated heads in any contrast, and of real images, with a random part of
    their noise taken out and their intensities remapped at random in half of the samples. Both are blurred
    by a random amount, because images that were averaged or resampled are smoother than others, and many
    are exactly 0 outside a brain that was stripped or, of real images, outside a random shape.

    Parameters
    ----------
    label_maps
        NIfTI files with FreeSurfer labels at 1 mm.
    images
        Folder of real images (NIfTI) of about 1 mm; none by default.
    share
        Share of the samples that show a real image.
    size
        Voxels along each edge of a block.
    spacings
        Edges of a voxel in mm to choose from. Slices are as thick in voxels as in mm at 1 mm.
    noise
        Range of the noise's standard deviation in the coarse image, as a share of the brightest tissue; half
        of the samples have none.
    blur
        Largest standard deviation of the blur of a sharp image, in voxels.
    stripped
        Share of the samples that are 0 outside a brain or shape.
    """

    # Axes along which a network sees planes of a block.
    plane_axes: tuple[int, ...]

    def __init__(
        self,
        label_maps: Sequence[str | Path],
        images: str | Path = "",
        share: float = 0.5,
        size: int = 48,
        spacings: Sequence[float] = (0.8, 1.0, 1.2),
        noise: tuple[float, float] = (0.005, 0.08),
        blur: float = 1.1,
        stripped: float = 0.6,
    ) -> None:
        anatomy = brain_anatomy()
        settings = SynthesisSettings(texture=0.03, translation=60.0, blur=0.0).without(*FAULTS)
        settings = replace(settings, skull_strip=stripped, zero=1.0 if stripped else 0.0)
        self.synthesizers = [
            Synthesizer(anatomy, replace(settings, shape=(size, size, size), spacing=s)) for s in spacings
        ]
        self.heads = [read_head_map(path, anatomy) for path in label_maps]
        self.images = [_scaled(study) for study in find_studies(images).studies] if images else []
        self.share = share if self.images else 0.0
        self.smooth_images = [non_local_mean(image, _OWN_NOISE) for image in self.images]
        self.size, self.noise, self.blur, self.stripped = size, noise, blur, stripped

    @abstractmethod
    def acquired(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Network input from an acquisition of a block, on the grid of the block; see `network_input`."""

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The input (C, X, Y, Z) and the sharp block (X, Y, Z). The brightest tissue is about 1."""
        clean = self._sharp(generator)
        while (clean > _AIR).float().mean() < _LEAST_SEEN:
            clean = self._sharp(generator)
        clean = clean.permute(torch.randperm(3, generator=generator).tolist())
        flips = [axis for axis in range(3) if torch.rand(1, generator=generator) < 0.5]
        clean = clean.flip(flips)
        return self.acquired(clean, generator), clean

    def _noisy(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The magnitude of an image, in half of the samples with noise in both of its parts."""
        if torch.rand(1, generator=generator) < 0.5:
            return image.abs()
        deviation = log_uniform(self.noise, generator)
        parts = deviation * torch.randn((2, *image.shape), generator=generator)
        return torch.hypot(image + parts[0], parts[1])

    def _sharp(self, generator: torch.Generator) -> Tensor:
        real = bool(torch.rand(1, generator=generator) < self.share)
        return self._real(generator) if real else self._generated(generator)

    def _generated(self, generator: torch.Generator) -> Tensor:
        synthesizer = choose(self.synthesizers, generator)
        block = synthesizer(choose(self.heads, generator), generator)[0][0]
        # Blurred with the air around it, the tissue at the edge is darker, as at the edge of stripped brains.
        return self._blurred(block, generator).masked_fill(block == 0, 0)

    def _real(self, generator: torch.Generator) -> Tensor:
        number = choose(range(len(self.images)), generator)
        image = torch.lerp(
            self.images[number], self.smooth_images[number], torch.rand((), generator=generator)
        )
        block = _mirrored(image, self.size, generator)
        if torch.rand(1, generator=generator) < 0.5:
            block = _recoloured(block, generator)
        block = self._blurred(block, generator)
        strip = torch.rand(1, generator=generator) < self.stripped
        return block * _random_shape(self.size, generator) if strip else block

    def _blurred(self, block: Tensor, generator: torch.Generator) -> Tensor:
        # Most images are less sharp than their voxels allow.
        width = self.blur * math.sqrt(float(torch.rand(1, generator=generator)))
        return torch.from_numpy(gaussian_filter(block.numpy(), width))


class ThickSlices(SharpBlocks):
    """Blocks of thick slices, whose normal is the last axis.

    Parameters
    ----------
    args, options
        Same as in `SharpBlocks`.
    steps
        Range of the distance between slices, in voxels.
    """

    plane_axes = (0, 1)

    def __init__(self, *args: Any, steps: tuple[float, float] = (2.0, 7.0), **options: Any) -> None:
        super().__init__(*args, **options)
        self.steps = steps

    def acquired(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """(4, X, Y, Z): the slices on the finer grid."""
        chance = torch.rand(3, generator=generator).tolist()
        step = log_uniform(self.steps, generator)
        size = clean.shape[2]
        count = max(4, math.floor(size / step))
        # At any offset, not where the grid of a study would begin: offsets depend on the numbers of slices.
        first = step / 2 - 0.5 + chance[0] * max(size - count * step, 0)
        thickness = step * (0.7 + 0.3 * min(2 * chance[1], 1) + 0.2 * max(2 * chance[1] - 1, 0))
        true = SliceStack(count, step, thickness, size, 1.0, first, "box" if chance[2] < 0.5 else "gauss")
        slices = self._noisy(along(true.acquire(), clean, 2), generator)
        # The profile of a real study is unknown, so the estimate always takes it as even.
        return network_input(slices, {2: replace(true, profile="box")})


class CoarsePixels(SharpBlocks):
    """Slices of which the lower spatial frequencies alone are measured along both axes.

    Parameters
    ----------
    args, options
        Same as in `SharpBlocks`.
    factor
        Edge of a coarse pixel in pixels of the sharp image, whose edge is a multiple of it.
    """

    plane_axes = (2,)

    def __init__(self, *args: Any, factor: int = 2, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.size % factor:
            raise ValueError(f"a block of {self.size} voxels has no whole number of pixels {factor} wide")
        count = self.size // factor
        stack = SliceStack(count, factor, factor, self.size, 1.0, 0.0, "kspace")
        self.stacks = {0: stack, 1: stack}

    def acquired(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """(3, X, Y, Z): the coarse slices on the finer grid; they follow each other along the last axis."""
        coarse = refined_along(SliceStack.acquire, clean, self.stacks)
        return network_input(self._noisy(coarse, generator), self.stacks)


class RefinedPlanes(SeededDataset):
    """Planes cut from blocks, each block a function of the seed and its index.

    Parameters
    ----------
    source
        Blocks of sharp images.
    length
        Blocks of an epoch.
    sample_shape
        Pixels of a plane; the whole plane of a block by default.
    samples
        Planes cut from one block.
    seed
        Seed of the random numbers; each seed gives different blocks.

    Raises
    ------
    ValueError
        If a plane would be larger than a block.
    """

    def __init__(
        self,
        source: SharpBlocks,
        length: int,
        sample_shape: Sequence[int] | None = None,
        *,
        samples: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(length, seed)
        self.source, self.samples = source, samples
        self.sample_shape = tuple(sample_shape or (source.size, source.size))
        if max(self.sample_shape) > source.size:
            raise ValueError(f"planes of {self.sample_shape} pixels do not fit blocks {source.size} wide")

    def __getitem__(self, index: int) -> list[dict[str, Tensor]]:
        """``image`` (C, *sample_shape), what a network sees, and ``label``, (1, *sample_shape)."""
        generator = self.generator(self.number(index))
        degraded, clean = self.source(generator)
        block = torch.cat([degraded, clean[None]])
        planes = [self._plane(block, generator) for _ in range(self.samples)]
        return [{"image": plane[:-1].contiguous(), "label": plane[-1:].contiguous()} for plane in planes]

    def _plane(self, block: Tensor, generator: torch.Generator) -> Tensor:
        axis = choose(self.source.plane_axes, generator) + 1
        plane = block.select(axis, int(torch.randint(block.shape[axis], (1,), generator=generator)))
        for a, part in enumerate(self.sample_shape, 1):
            first = int(torch.randint(plane.shape[a] - part + 1, (1,), generator=generator))
            plane = plane.narrow(a, first, part)
        return plane


def _scaled(study: Study) -> Tensor:
    """A study's image (X, Y, Z) over its 99.5 percentile."""
    image = read_study(study).image[0].as_tensor().float().clamp_min(0)
    bright = float(np.percentile(image[image > 0].numpy(), 99.5))
    return image / bright


def _mirrored(block: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A block cut or mirrored at its faces to a cube, from a random place."""
    for axis in range(3):
        while block.shape[axis] < size:
            block = torch.cat([block, block.flip(axis)], dim=axis)
        first = int(torch.randint(block.shape[axis] - size + 1, (1,), generator=generator))
        block = block.narrow(axis, first, size)
    return block


def _random_shape(size: int, generator: torch.Generator) -> Tensor:
    """1 within a random shape, which may fade towards its edge, and 0 outside, up to half of a cube."""
    knots = int(torch.randint(2, 6, (1,), generator=generator))
    field = torch.randn((1, 1, knots, knots, knots), generator=generator)
    field = F.interpolate(field, size=(size, size, size), mode="trilinear", align_corners=True)[0, 0]
    chance = torch.rand(3, generator=generator).tolist()
    inside = field - field.quantile(0.05 + 0.45 * chance[0])
    # Cut through tissue as it is, or through partial volumes and fluid, which are darker.
    edge = 0.2 + 0.8 * chance[1] + inside / (0.05 + chance[2])
    return torch.where(inside > 0, edge.clamp(max=1), 0)


def _recoloured(block: Tensor, generator: torch.Generator) -> Tensor:
    """The same shapes in another contrast: intensities through a random curve, of which half rise."""
    knots = torch.rand(5, generator=generator)
    if torch.rand(1, generator=generator) < 0.5:
        knots = knots.sort().values
    knots[0] = 0.1 * knots[0]
    curve = F.interpolate(knots[None, None], size=256, mode="linear", align_corners=True)[0, 0]
    position = block.clamp(0, 1.2) / 1.2 * 254
    lower = position.long()
    return torch.lerp(curve[lower], curve[lower + 1], position - lower)
