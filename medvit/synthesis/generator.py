"""Random images from label maps, so that a network learns anatomy in any contrast (Billot et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.synthesis.acquisition import acquire, normalise, resized
from medvit.synthesis.atlas import Anatomy, HeadMap
from medvit.synthesis.borders import BorderWeights
from medvit.synthesis.draw import Draw
from medvit.synthesis.heads import HeadBank
from medvit.synthesis.settings import SynthesisSettings

# Four points in a voxel, as of a tetrahedron: each axis is met at two depths, so partial volume is real.
_SUBSAMPLES = torch.tensor([[-1.0, -1, -1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 4


class Synthesizer:
    """Makes images and their targets from annotated heads.

    Parameters
    ----------
    anatomy
        Meaning of the labels.
    settings
        Amount of variation.

    References
    ----------
    Billot et al.: SynthSeg, segmentation of brain MRI scans of any contrast and resolution without
    retraining, Medical Image Analysis 86, 2023.
    """

    def __init__(self, anatomy: Anatomy, settings: SynthesisSettings | None = None) -> None:
        self.anatomy = anatomy
        self.settings = settings or SynthesisSettings()
        self._swapped_sides = torch.arange(len(anatomy.table) + 1, dtype=torch.uint8)
        for left, right in anatomy.table.pairs():
            self._swapped_sides[left.value], self._swapped_sides[right.value] = right.value, left.value
        weights = self.settings.border_weights
        self._redrawn = BorderWeights(anatomy.table, weights) if weights else None

    def __call__(self, head: HeadMap, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One sample: `batch` of a single head, without the axis of the batch."""
        image, target = self.batch(HeadBank([head]), [0], generator)
        return image[0], target[0]

    @torch.no_grad()
    def batch(
        self, bank: HeadBank, which: Sequence[int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """As many samples as `which` has heads, made together on the device of `bank`.

        Parameters
        ----------
        bank
            The heads.
        which
            The head of each sample.
        generator
            Random numbers, of the CPU whatever the device; the samples depend on nothing else. Which choices
            are made is the same on every device, the noise is each device's own.

        Returns
        -------
        image
            (B, 1, X, Y, Z) float32, 0 to 1 between its percentiles.
        target
            (B, 1, X, Y, Z) uint8, values of `Anatomy.table`.
        """
        draw = Draw(generator, len(which), bank.device)
        mirrored = draw.chance(self.settings.flip)
        points, centre = self._points(bank, which, draw, mirrored)
        target = bank.structure[bank.nearest(which, points)]
        swapped = draw.put(self._swapped_sides)
        for number, is_mirrored in enumerate(mirrored.tolist()):
            if is_mirrored:
                target[number] = swapped[target[number].long()]
        if self._redrawn is not None:
            target = self._redrawn(target)
        image, removed = self._paint(bank, which, points, target, draw)
        self._deface(points - centre, target, removed, draw)
        image = acquire(image, draw, self.settings)
        return normalise(self._cut(image, target, removed, draw))[:, None], target[:, None]

    def _points(
        self, bank: HeadBank, which: Sequence[int], draw: Draw, mirrored: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, 3, X, Y, Z) places of voxels in their heads, deformed, and (B, 3, 1, 1, 1) brain centres."""
        s = self.settings
        matrix = _rotations(draw.uniform(-s.rotation, s.rotation, 3).deg2rad())
        matrix = matrix * (1 + draw.uniform(-s.scaling, s.scaling, 1, 3))
        matrix = matrix + draw.uniform(-s.shear, s.shear, 3, 3)
        matrix[:, :, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
        shift = draw.uniform(-1, 1, 3) * torch.tensor(s.translation)
        shift = shift * torch.where(draw.chance(s.far), 3.0, 1.0)[:, None]
        axes = [(torch.arange(n, device=draw.device) - (n - 1) / 2) * s.spacing for n in s.shape]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
        points = (draw.put(matrix) @ grid).view(-1, 3, *s.shape)
        control = [max(4, round(n * s.spacing / s.elastic_step) + 1) for n in s.shape]
        strength = draw.put(s.elastic * draw.uniform(0, 1)).view(-1, 1, 1, 1, 1)
        centre = bank.centres[draw.put(torch.tensor(which))].view(-1, 3, 1, 1, 1)
        middle = centre + draw.put(shift).view(-1, 3, 1, 1, 1)
        return points + middle + resized(strength * draw.field(3, *control), s.shape), centre

    def _paint(
        self, bank: HeadBank, which: Sequence[int], points: Tensor, target: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """(B, X, Y, Z) intensities averaged over each voxel, and where exact zeros will stand.

        `target` becomes background where a strip also removed brain.
        """
        s, tissues = self.settings, len(self.anatomy.tissues)
        mean, deviation, shading = self._tissue_intensities(draw)
        strip = draw.chance(s.skull_strip)
        tight = strip & draw.chance(s.tight_strip)
        rough = strip & draw.chance(s.rough_strip)
        gone = (strip[:, None] & self.anatomy.extracerebral) | (tight[:, None] & self.anatomy.fluid)
        # A strip along the labels darkens the voxels that it cuts; a rough one runs between whole voxels.
        dark = gone & ~rough[:, None]
        air = torch.arange(tissues) == 0
        outside = torch.where(strip[:, None], gone, air).float()
        properties = [v.masked_fill(dark, 0) for v in (mean, deviation**2, shading)] + [outside]
        table = draw.put(torch.stack(properties, dim=-1).flatten(0, 1))
        total = torch.zeros((*target.shape, table.shape[1]), device=draw.device)
        row = draw.put_each(torch.arange(draw.count) * tissues)
        for offset in _SUBSAMPLES * s.spacing:
            places = bank.nearest(which, points + draw.put(offset).view(1, 3, 1, 1, 1))
            total += F.embedding(bank.tissue[places].long() + row, table)
        total /= len(_SUBSAMPLES)
        image = total[..., 0] + draw.field(*s.shape) * (total[..., 1] / len(_SUBSAMPLES)).sqrt()
        smooth = [max(4, round(n * s.spacing / 10) + 1) for n in s.shape]
        image = image + total[..., 2] * resized(draw.field(1, *smooth), s.shape)[:, 0]
        removed = self._strip(total[..., 3], target, strip, rough, tight, draw)
        return image, removed

    def _tissue_intensities(self, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """(B, tissues) mean, deviation and smooth change, each sample in a contrast drawn at random."""
        s, count = self.settings, len(self.anatomy.tissues)
        mean = draw.uniform(0, 1, count)
        unknown = torch.full((count,), float("nan"))
        priors = torch.stack([self.anatomy.priors.get(name, unknown) for name in s.contrasts])
        known = torch.tensor([name != "random" for name in s.contrasts])
        contrast = draw.pick(list(s.contrasts.values()))
        prior = priors[contrast]
        mean = torch.where(prior.isnan(), mean, prior + 0.05 * draw.gaussian(count))
        dark = known[contrast] | draw.chance(0.7)
        mean[:, 0] = torch.where(dark, 0.05 * draw.uniform(0, 1), mean[:, 0])
        deviation = draw.uniform(0.01, max(s.texture, 0.01), count) * len(_SUBSAMPLES) ** 0.5
        return mean, deviation, s.shading * draw.uniform(0, 1, count) ** 2

    def _strip(
        self, share: Tensor, target: Tensor, strip: Tensor, rough: Tensor, tight: Tensor, draw: Draw
    ) -> Tensor:
        """Mask of the exact zeros; `target` becomes background where brain is removed as well."""
        removed = share > 0.8
        level, zero = draw.uniform(0.25, 0.95).tolist(), draw.chance(self.settings.zero)
        for number in (n for n, is_rough in enumerate(rough.tolist()) if is_rough):
            wide = F.avg_pool3d(F.pad(share[number][None, None], (2,) * 6, mode="replicate"), 5, 1)
            removed[number] = wide[0, 0] > level[number]
        target.masked_fill_(draw.put_each(rough | tight) & removed, 0)
        return removed & draw.put_each(zero | rough)

    def _deface(self, place: Tensor, target: Tensor, removed: Tensor, draw: Draw) -> None:
        """Remove everything in front of and below a plane in front of the brain, but no structure."""
        angle, distance = draw.uniform(0.2, 0.9).tolist(), draw.uniform(50, 80).tolist()
        for number in draw.chosen(self.settings.deface):
            _, front, up = place[number]
            depth = front * math.cos(angle[number]) - up * math.sin(angle[number])
            removed[number] |= (depth > distance[number]) & (target[number] == 0)

    def _cut(self, image: Tensor, target: Tensor, removed: Tensor, draw: Draw) -> Tensor:
        """(B, X, Y, Z) with zeros where something was removed, or beyond a cut field of view."""
        image = image.masked_fill(removed, 0)
        axes, ends, share = draw.integers(3), draw.integers(2), draw.uniform(0.05, 0.25).tolist()
        for number in draw.chosen(self.settings.crop):
            edge = image.shape[axes[number] + 1]
            width = round(share[number] * edge)
            for volume in (image, target):
                volume[number].narrow(axes[number], edge - width if ends[number] else 0, width).zero_()
        return image


def _rotations(angles: Tensor) -> Tensor:
    """(B, 3, 3) rotations by `angles` (B, 3; radians) about x, then y, then z."""
    matrix = torch.eye(3).repeat(len(angles), 1, 1)
    for axis in range(3):
        i, j = [k for k in range(3) if k != axis]
        step = torch.eye(3).repeat(len(angles), 1, 1)
        cosine, sine = angles[:, axis].cos(), angles[:, axis].sin()
        step[:, i, i] = step[:, j, j] = cosine
        step[:, i, j], step[:, j, i] = -sine, sine
        matrix = step @ matrix
    return matrix
