"""Effects of a scanner, and of preparing a scan, on an image: functions of (B, X, Y, Z) tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.synthesis.draw import Draw
from medvit.synthesis.settings import SynthesisSettings


def resized(control: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, C, x, y, z) control points to a smooth (B, C, X, Y, Z) field."""
    return F.interpolate(control, size=tuple(shape), mode="trilinear", align_corners=True)


def normalise(image: Tensor, lower: float = 0.005, upper: float = 0.995) -> Tensor:
    """Each sample of `image` (B, ...) scaled so that its quantiles become 0 and 1, and cut there.

    The quantiles are estimated from every seventh voxel, which is exact enough and several times faster.
    """
    values = image.flatten(1)[:, ::7].sort(dim=1).values
    shape = [-1] + [1] * (image.ndim - 1)
    low, high = (values[:, int(q * (values.shape[1] - 1))].view(shape) for q in (lower, upper))
    return ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


def acquire(image: Tensor, draw: Draw, settings: SynthesisSettings) -> Tensor:
    """Apply the effects of coil, resolution, movement and noise to (B, X, Y, Z)."""
    s, shape = settings, image.shape[1:]
    bias = resized(draw.field(1, 4, 4, 4), shape)[:, 0]
    image = image * (draw.put_each(draw.uniform(0, s.bias)) * bias).exp()
    width = draw.uniform(0.2, 0.9, 3) * (2 / s.spacing) ** 0.5
    image = blurred(image, draw, torch.where(draw.chance(s.blur)[:, None], width, torch.tensor(1e-3)))
    _each(image, draw, s.thick_slices, _Thick(draw, s))
    axes, keep = draw.integers(3), draw.uniform(0.5, 0.85).tolist()
    _each(image, draw, s.ringing, lambda sample, n: truncated(sample, axes[n], keep[n]))
    _each(image, draw, s.motion, _Motion(draw, s))
    _each(image, draw, s.wrap, _Wrap(draw))
    image = image + draw.put_each(draw.uniform(0, s.noise)) * draw.field(*shape)
    image = image.clamp_min(0)
    gamma = draw.put_each(draw.uniform(-s.gamma, s.gamma)).exp()
    return (image / image.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)) ** gamma


def _each(image: Tensor, draw: Draw, probability: float, change: Callable[[Tensor, int], Tensor]) -> None:
    """Apply `change` to some of the samples of `image`, in place."""
    for number in draw.chosen(probability):
        image[number] = change(image[number], number)


def blurred(image: Tensor, draw: Draw, sigma: Tensor) -> Tensor:
    """Gaussian blur with standard deviations of (B, 3) voxels, on the host."""
    radius = max(1, math.ceil(3 * float(sigma.max())))
    offsets = torch.arange(-radius, radius + 1)
    kernels = torch.exp(-0.5 * (offsets / sigma[..., None]) ** 2)
    kernels = draw.put(kernels / kernels.sum(dim=-1, keepdim=True))
    batch = image[None]
    for axis in range(3):
        shape, padding = [len(image), 1, 1, 1, 1], [0, 0, 0]
        shape[axis + 2], padding[axis] = len(offsets), radius
        batch = F.conv3d(batch, kernels[:, axis].reshape(shape), padding=padding, groups=len(image))
    return batch[0]


class _Thick:
    """Slices thicker than the voxels, with an even or a bell-shaped profile, not all equally bright."""

    def __init__(self, draw: Draw, settings: SynthesisSettings) -> None:
        self.axes, self.bell = draw.integers(3), draw.chance(0.5).tolist()
        self.width = (draw.uniform(*settings.slice_thickness) / settings.spacing).tolist()
        self.gain = draw.put((draw.uniform(0, 0.06, 1) * draw.gaussian(max(settings.shape))).exp())

    def __call__(self, sample: Tensor, number: int) -> Tensor:
        width, axis = self.width[number], self.axes[number]
        if width < 1.2:
            return sample
        return thick_slices(sample, axis, width, bell=self.bell[number], gain=self.gain[number])


def thick_slices(
    sample: Tensor, axis: int, thickness: float, *, bell: bool = False, gain: Tensor | None = None
) -> Tensor:
    """(X, Y, Z) as if acquired in slices of `thickness` voxels along `axis` and interpolated back.

    Parameters
    ----------
    bell
        Whether slices have a bell-shaped profile that reaches into their neighbours instead of an even one.
    gain
        Brightness of each slice; further values are not used.
    """
    shape = list(sample.shape)
    count = max(2, round(shape[axis] / thickness))
    size = [count if a == axis else n for a, n in enumerate(shape)]
    if bell:
        radius = math.ceil(1.5 * thickness)
        offsets = torch.arange(-radius, radius + 1, device=sample.device)
        kernel = torch.exp(-0.5 * (offsets / (0.45 * thickness)) ** 2)
        form = [2 * radius + 1 if a == axis else 1 for a in range(3)]
        padding = [radius if a == axis else 0 for a in range(3)]
        weight = (kernel / kernel.sum()).reshape(1, 1, *form)
        smooth = F.conv3d(sample[None, None], weight, padding=padding)
        slices = F.interpolate(smooth, size=size, mode="trilinear", align_corners=False)
    else:
        slices = F.adaptive_avg_pool3d(sample[None, None], (size[0], size[1], size[2]))
    if gain is not None:
        slices = slices * gain[:count].reshape([-1 if a == axis else 1 for a in range(3)])
    return F.interpolate(slices, size=shape, mode="trilinear", align_corners=False)[0, 0]


def truncated(sample: Tensor, axis: int, keep: float) -> Tensor:
    """(X, Y, Z) from the inner share `keep` of its k-space along `axis`: edges ring (Gibbs)."""
    spectrum = torch.fft.rfft(sample, dim=axis)
    first = min(spectrum.shape[axis], max(2, round(keep * spectrum.shape[axis])))
    spectrum.narrow(axis, first, spectrum.shape[axis] - first).zero_()
    return torch.fft.irfft(spectrum, n=sample.shape[axis], dim=axis)


class _Motion:
    """A head that moved along the phase axis while a part of the outer lines of k-space was acquired."""

    def __init__(self, draw: Draw, settings: SynthesisSettings) -> None:
        self.axes, self.start = draw.integers(3), draw.uniform(0.1, 0.7).tolist()
        self.shift = (draw.uniform(1.0, 5.0) / settings.spacing).tolist()

    def __call__(self, sample: Tensor, number: int) -> Tensor:
        return moved(sample, self.axes[number], self.shift[number], self.start[number])


def moved(sample: Tensor, axis: int, shift: float, start: float) -> Tensor:
    """(X, Y, Z) of a head that moved by `shift` voxels along `axis` for a third of k-space.

    Lines up to the share `start` of the half axis, the centre of k-space, were acquired before.
    """
    spectrum = torch.fft.rfft(sample, dim=axis)
    lines = spectrum.shape[axis]
    first = max(1, round(start * lines))
    last = min(lines, first + max(1, lines // 3))
    frequency = torch.arange(first, last, device=sample.device) / sample.shape[axis]
    phase = torch.polar(torch.ones_like(frequency), -2 * math.pi * shift * frequency)
    part = spectrum.narrow(axis, first, last - first)
    part *= phase.reshape([-1 if a == axis else 1 for a in range(3)])
    return torch.fft.irfft(spectrum, n=sample.shape[axis], dim=axis)


class _Wrap:
    """A field of view smaller than the head: parts beyond one end appear at the other."""

    def __init__(self, draw: Draw) -> None:
        self.axes, self.share = draw.integers(3), draw.uniform(0.05, 0.2).tolist()
        self.strength = draw.uniform(0.3, 1.0).tolist()

    def __call__(self, sample: Tensor, number: int) -> Tensor:
        axis = self.axes[number]
        width = max(1, round(self.share[number] * sample.shape[axis]))
        folded = sample.clone()
        beyond = sample.narrow(axis, sample.shape[axis] - width, width)
        folded.narrow(axis, 0, width).add_(beyond, alpha=self.strength[number])
        return folded
