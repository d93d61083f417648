"""Random images from label maps, so that a network learns anatomy in any contrast (Billot et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.synthesis.atlas import Anatomy, HeadMap


@dataclass(frozen=True)
class SynthesisSettings:
    """How wildly images vary. Probabilities are of one sample, lengths in mm.

    Parameters
    ----------
    shape, spacing
        Voxels of a sample along x, y, z, and their edge.
    contrasts
        Name of a contrast prior, or ``"random"``, to its share of the samples.
    rotation, scaling, shear
        Largest angle in degrees, relative change of size, and shear of the affine deformation.
    elastic
        Standard deviation of the smooth displacement, whose control points are `elastic_step` apart.
    translation
        Largest shift of the sample's centre from the brain's.
    flip, skull_strip, crop, thick_slices, blur
        Probabilities of mirroring (sides are swapped in the target), removal of everything but brain, a cut
        field of view, slices thicker than `spacing` along one axis, and blur.
    slice_thickness
        Range of thick slices.
    bias, noise, gamma
        Largest strength of the bias field (log), of the noise (share of the range), of log gamma.
    texture
        Largest standard deviation within a tissue (share of the range).
    """

    shape: tuple[int, int, int] = (80, 96, 80)
    spacing: float = 2.0
    contrasts: dict[str, float] = field(
        default_factory=lambda: {"T1": 0.45, "T2": 0.12, "PD": 0.12, "FLAIR": 0.06, "random": 0.25}
    )
    rotation: float = 15.0
    scaling: float = 0.15
    shear: float = 0.05
    elastic: float = 3.0
    elastic_step: float = 32.0
    translation: float = 12.0
    flip: float = 0.5
    skull_strip: float = 0.25
    crop: float = 0.15
    thick_slices: float = 0.25
    slice_thickness: tuple[float, float] = (3.0, 7.0)
    blur: float = 0.5
    bias: float = 0.5
    noise: float = 0.08
    gamma: float = 0.4
    texture: float = 0.08


# Four points in a voxel, as of a tetrahedron: each axis is met at two depths, so partial volume is real.
_SUBSAMPLES = torch.tensor([[-1.0, -1, -1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 4


class Synthesizer:
    """Makes an image and its target from an annotated head.

    Parameters
    ----------
    anatomy
        What the labels mean.
    settings
        How wildly images vary.

    References
    ----------
    Billot et al.: SynthSeg, segmentation of brain MRI scans of any contrast and resolution without
    retraining, Medical Image Analysis 86, 2023.
    """

    def __init__(self, anatomy: Anatomy, settings: SynthesisSettings | None = None) -> None:
        self.anatomy = anatomy
        self.settings = settings or SynthesisSettings()
        self._contrasts = list(self.settings.contrasts)
        self._swapped_sides = torch.arange(len(anatomy.table) + 1, dtype=torch.uint8)
        for left, right in anatomy.table.pairs():
            self._swapped_sides[left.value], self._swapped_sides[right.value] = right.value, left.value

    def __call__(self, head: HeadMap, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One sample.

        Parameters
        ----------
        head
            On the device where the sample is to be made.
        generator
            Random numbers, on that device; the sample depends on nothing else.

        Returns
        -------
        image
            (1, X, Y, Z) float32, 0 to 1 between its percentiles.
        target
            (1, X, Y, Z) uint8, values of `Anatomy.table`.
        """
        draw = _Draw(generator)
        mirrored = draw.chance(self.settings.flip)
        points = self._points(head, draw, mirrored)
        target = _sample(head.structure, points)
        if mirrored:
            target = self._swapped_sides.to(target.device)[target.long()]
        image = self._paint(head, points, draw)
        image = self._acquire(image, draw)
        return normalise(image)[None], target[None]

    def _points(self, head: HeadMap, draw: _Draw, mirrored: bool) -> Tensor:
        """(3, X, Y, Z) voxel coordinates in the head map of each voxel's centre, deformed."""
        s = self.settings
        axes = [(torch.arange(n, device=draw.device) - (n - 1) / 2) * s.spacing for n in s.shape]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        matrix = _rotation(draw.uniform(3, -s.rotation, s.rotation).deg2rad())
        matrix = matrix * (1 + draw.uniform(3, -s.scaling, s.scaling))
        matrix = matrix + draw.uniform(9, -s.shear, s.shear).reshape(3, 3)
        if mirrored:
            matrix = matrix * torch.tensor([-1.0, 1, 1], device=draw.device)
        centre = head.centre + draw.uniform(3, -s.translation, s.translation)
        points = torch.einsum("ij,jxyz->ixyz", matrix, grid) + centre.reshape(3, 1, 1, 1)
        control = [max(4, round(n * s.spacing / s.elastic_step) + 1) for n in s.shape]
        strength = s.elastic * float(draw.uniform(1, 0, 1))
        return points + _resize(strength * draw.normal(3, *control), s.shape)

    def _paint(self, head: HeadMap, points: Tensor, draw: _Draw) -> Tensor:
        """(X, Y, Z) intensities of the tissues at `points`, averaged over the voxel."""
        mean, deviation = self._tissue_intensities(draw)
        total, variance = torch.zeros_like(points[0]), torch.zeros_like(points[0])
        offsets = _SUBSAMPLES.to(points) * self.settings.spacing
        for offset in offsets:
            tissue = _sample(head.tissue, points + offset.reshape(3, 1, 1, 1)).long()
            total += mean[tissue]
            variance += deviation[tissue] ** 2
        return total / len(offsets) + draw.normal(*total.shape) * variance.sqrt() / len(offsets)

    def _tissue_intensities(self, draw: _Draw) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each tissue in a contrast drawn at random."""
        s, count = self.settings, len(self.anatomy.tissues)
        mean = draw.uniform(count, 0, 1)
        contrast = self._contrasts[draw.pick(list(s.contrasts.values()))]
        if contrast != "random":
            prior = self.anatomy.priors[contrast].to(mean)
            mean = torch.where(prior.isnan(), mean, prior + 0.05 * draw.normal(count))
        if contrast != "random" or draw.chance(0.7):
            mean[0] = 0.05 * draw.uniform(1, 0, 1)
        deviation = draw.uniform(count, 0.01, s.texture) * len(_SUBSAMPLES) ** 0.5
        if draw.chance(s.skull_strip):
            outside = self.anatomy.extracerebral.to(mean.device)
            mean, deviation = (torch.where(outside, torch.zeros_like(v), v) for v in (mean, deviation))
        return mean, deviation

    def _acquire(self, image: Tensor, draw: _Draw) -> Tensor:
        """What a scanner does to the tissues: coil, resolution, field of view, noise."""
        s = self.settings
        bias = float(draw.uniform(1, 0, s.bias)) * draw.normal(1, 4, 4, 4)
        image = image * _resize(bias, s.shape)[0].exp()
        if draw.chance(s.blur):
            image = _blur(image, draw.uniform(3, 0.2, 0.9).tolist())
        if draw.chance(s.thick_slices):
            thickness = float(draw.uniform(1, *s.slice_thickness)) / s.spacing
            image = _thick_slices(image, draw.integer(3), thickness)
        if draw.chance(s.crop):
            image = _cut(image, draw.integer(3), draw.integer(2), float(draw.uniform(1, 0.05, 0.25)))
        image = image + float(draw.uniform(1, 0, s.noise)) * draw.normal(*image.shape)
        image = image.clamp_min(0)
        return (image / image.amax().clamp_min(1e-6)) ** float(draw.uniform(1, -s.gamma, s.gamma).exp())


def normalise(image: Tensor, lower: float = 0.005, upper: float = 0.995) -> Tensor:
    """`image` scaled so that its lower and upper quantile become 0 and 1, and cut there.

    The quantiles are taken of every seventh voxel, which is exact enough and several times faster.
    """
    values = image.flatten()[::7].sort().values
    low, high = (values[int(q * (len(values) - 1))] for q in (lower, upper))
    return ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


class _Draw:
    """Random numbers of one sample, on the generator's device."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self.device = generator.device

    def uniform(self, count: int, low: float, high: float) -> Tensor:
        return torch.rand(count, generator=self._generator, device=self.device) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self.device)

    def chance(self, probability: float) -> bool:
        return float(self.uniform(1, 0, 1)) < probability

    def integer(self, count: int) -> int:
        return int(self.uniform(1, 0, count))

    def pick(self, shares: Sequence[float]) -> int:
        return int(torch.multinomial(torch.tensor(shares).to(self.device), 1, generator=self._generator))


def _rotation(angles: Tensor) -> Tensor:
    """3x3 rotation by `angles` (radians) about x, then y, then z."""
    matrix = torch.eye(3, device=angles.device)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        step = torch.eye(3, device=angles.device)
        step[i, i] = step[j, j] = angle.cos()
        step[i, j], step[j, i] = -angle.sin(), angle.sin()
        matrix = step @ matrix
    return matrix


def _resize(field_: Tensor, shape: Sequence[int]) -> Tensor:
    """(C, x, y, z) control points to a smooth (C, X, Y, Z) field."""
    return F.interpolate(field_[None], size=tuple(shape), mode="trilinear", align_corners=True)[0]


def _sample(volume: Tensor, points: Tensor) -> Tensor:
    """Nearest voxels of (X, Y, Z) `volume` at (3, ...) `points`; its border beyond it."""
    # Integers up to 2^24 are exact in float32, and one conversion of the index is cheaper than three.
    exact = torch.float32 if volume.numel() <= 2**24 else torch.float64
    index = torch.zeros(points.shape[1:], dtype=exact, device=points.device)
    for coordinate, size in zip(points, volume.shape, strict=True):
        index.mul_(size).add_(coordinate.round().clamp_(0, size - 1))
    return volume.flatten()[index.long()]


def _blur(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Gaussian blur of (X, Y, Z), standard deviations in voxels."""
    for axis, sigma in enumerate(sigmas):
        radius = max(1, round(3 * sigma))
        offsets = torch.arange(-radius, radius + 1, device=image.device)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[axis + 2], padding[axis] = len(offsets), radius
        image = F.conv3d(image[None, None], (kernel / kernel.sum()).reshape(shape), padding=padding)[0, 0]
    return image


def _thick_slices(image: Tensor, axis: int, thickness: float) -> Tensor:
    """(X, Y, Z) as if acquired in slices of `thickness` voxels along `axis` and interpolated back."""
    size = list(image.shape)
    size[axis] = max(2, round(size[axis] / thickness))
    thick = F.adaptive_avg_pool3d(image[None, None], (size[0], size[1], size[2]))
    return F.interpolate(thick, size=image.shape, mode="trilinear", align_corners=False)[0, 0]


def _cut(image: Tensor, axis: int, end: int, share: float) -> Tensor:
    """(X, Y, Z) with `share` of the field of view missing at one end of `axis`."""
    width = round(share * image.shape[axis])
    image = image.clone()
    image.narrow(axis, image.shape[axis] - width if end else 0, width).zero_()
    return image
