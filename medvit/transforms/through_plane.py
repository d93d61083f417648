"""Conversion between thick slices or coarse pixels and a finer grid, as matrices along single axes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from scipy.ndimage import map_coordinates
from scipy.special import erf
from torch import Tensor

from medvit.errors import StudyError
from medvit.studies.study import Grid, LoadedStudy, Study
from medvit.transforms.load_study import LoadStudyd
from medvit.transforms.non_local import non_local_mean, non_local_upsample
from medvit.transforms.restoration import ScaleToUnitd

Profile = Literal["box", "gauss", "kspace"]

# Millimetres from the centre of a slice that are 1 in the channel of distances from slices.
_FAR = 4.0
_FWHM = 2 * np.sqrt(2 * np.log(2))
# Slices closer than this many voxels of the finer grid need no estimate.
_LEAST_STEP = 1.5
# Pixels of a slice stay as they are between these many voxels of the finer grid, and are refused beyond.
_LIKE_A_VOXEL = (0.75, 1.25)
_COARSEST_PIXEL = 1.5
# A thickness in a header is accepted between these shares of the step.
_LIKELY_THICKNESS = (0.3, 2.0)
# At this ratio of shown to acquired pixels or more, a scanner has interpolated; partial k-space stays below.
INTERPOLATED = 1.5
# Strength of the non-local mean by which a network recognises noise.
_SMOOTHING = 0.1
# Key of the meta data that holds the `Refinement` of an image.
REFINEMENT = "refinement"
# Each round brings the slices of the estimate closer to the measured ones; after ten, little changes.
_ROUNDS = 10


@dataclass(frozen=True)
class SliceStack:
    """Positions and thickness of parallel slices, and the voxels of a finer grid along their normal.

    Parameters
    ----------
    count
        Number of slices.
    step
        Distance between the centres of neighbouring slices, in mm.
    thickness
        Thickness of a slice in mm: below `step` there are gaps, above it slices overlap.
    size, spacing
        Number of voxels of the finer grid, and their distance in mm.
    first
        Position of the first slice's centre in voxels of the finer grid.
    profile
        Sensitivity along the axis: even over the thickness, or a Gaussian whose full width at half maximum
        is the thickness. ``"kspace"`` stands for pixels of a slice, of which a scanner measures the lower
        spatial frequencies; both grids then have the same extent.
    """

    count: int
    step: float
    thickness: float
    size: int
    spacing: float
    first: float
    profile: Profile = "box"

    @classmethod
    def centred(
        cls, count: int, step: float, thickness: float, spacing: float, profile: Profile = "box"
    ) -> SliceStack:
        """The finer grid that covers the slices, with the same centre as the stack.

        Blocks of voxels are averaged into slices, so the first voxel lies half a slice less half a voxel
        before the centre of the first slice, not at it.
        """
        size = max(1, round(count * step / spacing))
        first = (size - 1) / 2 - (count - 1) / 2 * step / spacing
        return cls(count, step, thickness, size, spacing, first, profile)

    @property
    def centres(self) -> np.ndarray:
        """(count,) positions of the slices in voxels of the finer grid."""
        return self.first + np.arange(self.count) * self.step / self.spacing

    def acquire(self) -> np.ndarray:
        """(count, size) weights with which voxels of the finer grid make up each slice; rows add up to 1."""
        if self.profile == "kspace":
            distance = (self.centres[:, None] - np.arange(self.size)) * self.spacing / self.step
            return periodic_sinc(distance, self.count) * self.spacing / self.step
        edges = np.arange(self.size + 1) - 0.5 - self.centres[:, None]
        width = self.thickness / self.spacing
        if self.profile == "box":
            below = edges.clip(-width / 2, width / 2)
        else:
            below = erf(edges * _FWHM / width / np.sqrt(2))
        weights = np.diff(below, axis=1)
        total = weights.sum(axis=1, keepdims=True)
        return weights / np.where(total > 0, total, 1)

    def interpolate(self) -> np.ndarray:
        """(size, count) weights of a cubic B-spline through the slices, mirrored beyond the outer ones."""
        position = (np.arange(self.size) - self.first) * self.spacing / self.step
        unit = np.eye(self.count)
        columns = [map_coordinates(row, position[None], order=3, mode="reflect") for row in unit]
        return np.stack(columns, axis=1)

    def zero_fill(self) -> np.ndarray:
        """(size, count) weights of the trigonometric polynomial through the slices: zero-filled k-space."""
        position = (np.arange(self.size) - self.first) * self.spacing / self.step
        return periodic_sinc(position[:, None] - np.arange(self.count), self.count)

    def refine(self, rounds: int = _ROUNDS) -> np.ndarray:
        """(size, count) weights of an interpolation whose slices are then made equal to the measured ones.

        The interpolation is a cubic B-spline, of pixels zero-filling. Each round interpolates and adds the
        difference between measured and estimated slices (iterative back-projection).
        """
        acquire = self.acquire()
        interpolate = self.zero_fill() if self.profile == "kspace" else self.interpolate()
        weights, missing = interpolate, np.eye(self.count) - acquire @ interpolate
        for _ in range(rounds):
            weights = weights + interpolate @ missing
            missing = np.eye(self.count) - acquire @ weights
        return weights

    def distances(self) -> np.ndarray:
        """(size,) signed distance of each voxel from the nearest slice centre, in units of 4 mm."""
        offset = np.arange(self.size)[:, None] - self.centres
        nearest = np.take_along_axis(offset, np.abs(offset).argmin(axis=1)[:, None], axis=1)[:, 0]
        return nearest * self.spacing / _FAR


def periodic_sinc(distance: np.ndarray, count: int) -> np.ndarray:
    """Dirichlet's kernel of `count` samples, 1 at a distance of 0 samples and 0 at all other samples.

    Of an even number, the highest frequency is split between both of its signs.
    """
    turn = np.pi * distance / count
    top = np.sin(np.pi * distance)
    bottom = count * (np.sin(turn) if count % 2 else np.tan(turn))
    at_sample = np.abs(np.sin(turn)) < 1e-9
    return np.where(at_sample, 1.0, top / np.where(np.abs(bottom) < 1e-12, np.inf, bottom))


def along(weights: np.ndarray, image: Tensor, axis: int) -> Tensor:
    """`image` with `weights` (outputs, inputs) applied along an axis."""
    matrix = torch.from_numpy(weights).to(image.device, image.dtype)
    return (image.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


def refined_along(
    weights: Callable[[SliceStack], np.ndarray], image: Tensor, stacks: Mapping[int, SliceStack]
) -> Tensor:
    """`image` (..., X, Y, Z) with the weights that a function has for the samples along each axis."""
    for axis, stack in stacks.items():
        image = along(weights(stack), image, axis - 3)
    return image


def upsampled_non_locally(samples: Tensor, stacks: Mapping[int, SliceStack]) -> Tensor:
    """Samples (X, Y, Z) on the finer grid by non-local upsampling, see `medvit.transforms.non_local`."""
    return non_local_upsample(
        samples,
        lambda some: refined_along(SliceStack.refine, some, stacks),
        lambda image: refined_along(SliceStack.acquire, image, stacks),
    )


def network_input(samples: Tensor, stacks: Mapping[int, SliceStack]) -> Tensor:
    """What a super-resolution network sees of samples (X, Y, Z), with the distances along a single axis.

    Returns
    -------
    Tensor
        (3 or 4, X', Y', Z'): the non-local upsampling, to which the network adds; the same smoothed, which
        shows what is noise; the back-projection, which shows what was measured; and, if one axis alone
        becomes finer, the distances of `SliceStack.distances` along it.
    """
    image = upsampled_non_locally(samples, stacks)
    refined = refined_along(SliceStack.refine, samples, stacks)
    channels = [image, non_local_mean(image, _SMOOTHING), refined]
    if len(stacks) == 1:
        ((axis, stack),) = stacks.items()
        shape = [-1 if a == axis else 1 for a in range(3)]
        channels.append(torch.from_numpy(stack.distances()).to(image).reshape(shape).expand(image.shape))
    return torch.stack(channels)


@dataclass(frozen=True)
class Refinement:
    """From the thick slices of a study, or from coarse pixels, to a finer grid with the same axes.

    Parameters
    ----------
    axis
        The voxel axis across the slices.
    stacks
        The samples along each axis that becomes finer, by its number: slices along `axis`, or pixels along
        the other two.
    pixels
        Weights (new, old) of the other two axes by number, where pixels become voxels of another size; axes
        that stay as they are have none.
    grid
        The finer grid.
    assumed
        Whether the thickness is not known, and taken as the step.
    pixels_shown, pixels_acquired
        Pixels along the longer edge of a slice, and how many were measured; 0 where that is not known.
    """

    axis: int
    stacks: Mapping[int, SliceStack]
    pixels: Mapping[int, np.ndarray]
    grid: Grid
    assumed: bool
    pixels_shown: int = 0
    pixels_acquired: int = 0

    @property
    def stack(self) -> SliceStack:
        """The slices along `axis`, where it is that which becomes finer."""
        return self.stacks[self.axis]

    def slices(self, image: Tensor) -> Tensor:
        """The measured slices (..., X, Y, Z) with pixels of the finer grid's size."""
        for axis, weights in self.pixels.items():
            image = along(weights, image, axis - 3)
        return image

    def estimated(self, slices: Tensor) -> Tensor:
        """Slices with pixels of the finer grid's size on that grid, by back-projection."""
        return self._along(SliceStack.refine, slices)

    def interpolated(self, image: Tensor) -> Tensor:
        """The measured slices on the finer grid, by a cubic B-spline."""
        return self._along(SliceStack.interpolate, self.slices(image))

    def acquired(self, image: Tensor) -> Tensor:
        """The slices that a scanner would measure of an image on the finer grid."""
        return self._along(SliceStack.acquire, image)

    def _along(self, weights: Callable[[SliceStack], np.ndarray], image: Tensor) -> Tensor:
        return refined_along(weights, image, self.stacks)

    def describe(self) -> str:
        """A sentence on the assumptions, for the reader of the result."""
        new = " x ".join(f"{s:.3g}" for s in self.grid.spacing)
        if self.axis not in self.stacks:
            edges = " x ".join(f"{stack.step:.3g}" for stack in self.stacks.values())
            return f"Pixels of {edges} mm were laid on a grid of {new} mm; finer detail is an estimate."
        stack = self.stack
        thickness = "as thick (assumed)" if self.assumed else f"{stack.thickness:.3g} mm thick"
        said = (
            f"Slices {stack.step:.3g} mm apart and {thickness} were laid on a grid of {new} mm; "
            "the detail between them is an estimate."
        )
        if self.pixels_acquired and self.pixels_shown >= INTERPOLATED * self.pixels_acquired:
            counts = f"{self.pixels_acquired} acquired, {self.pixels_shown} shown"
            said += f" The scanner has interpolated their pixels ({counts})."
        return said

    def inconsistency(self, image: Tensor, source: Tensor) -> Tensor:
        """Slices of an image on the finer grid minus the measured ones, spread over the finer grid.

        It is zero where the image agrees with all that was measured; each voxel takes the value of its
        nearest slice.
        """
        difference = self.acquired(image) - self.slices(source)
        for axis, stack in self.stacks.items():
            nearest = np.abs(np.arange(stack.size)[:, None] - stack.centres).argmin(axis=1)
            difference = difference.index_select(axis - 3, torch.from_numpy(nearest).to(image.device))
        return difference


def across(grid: Grid) -> int:
    """The axis across thick slices: the one with the largest spacing, or the first of equal ones."""
    return int(np.argmax(np.round(grid.spacing, 3)))


def refinement_of(study: LoadedStudy, spacing: float = 1.0) -> Refinement:
    """The refinement of a study of thick slices to a volume with voxels of `spacing` mm.

    Pixels of a slice that are nearly as large as such a voxel stay as they are; finer ones are averaged. The
    step is that of the positions, the thickness that of the header, where it has one.

    Raises
    ------
    StudyError
        If the slices are not thick, or their pixels are too coarse.
    """
    grid = study.grid
    axis = across(grid)
    step = grid.spacing[axis]
    rest = [a for a in range(3) if a != axis]
    if step < _LEAST_STEP * spacing or grid.shape[axis] < 2:
        what = f"its slices are {step:.3g} mm apart: there are no thick slices to refine"
        raise StudyError("not-thick", what, path=file_of(study), do="use the study as it is")
    if (coarse := max(grid.spacing[a] for a in rest)) > _COARSEST_PIXEL * spacing:
        what = f"the pixels of its slices are {coarse:.3g} mm wide, too coarse for voxels of {spacing:g} mm"
        raise StudyError("coarse-pixels", what, path=file_of(study), do="give a series with finer pixels")
    stated = study.series[0].facts.get("slice_thickness")
    low, high = (share * step for share in _LIKELY_THICKNESS)
    known = stated is not None and low <= float(stated) <= high
    stack = SliceStack.centred(grid.shape[axis], step, float(stated) if known else step, spacing)  # type: ignore[arg-type]
    pixels, sizes, edges = {}, list(grid.shape), list(grid.spacing)
    for a in rest:
        pixel = grid.spacing[a]
        if _LIKE_A_VOXEL[0] * spacing <= pixel <= _LIKE_A_VOXEL[1] * spacing:
            continue
        pixels[a] = _resized(grid.shape[a], pixel, spacing)
        sizes[a], edges[a] = len(pixels[a]), spacing
    sizes[axis], edges[axis] = stack.size, spacing
    shown = max(grid.shape[a] for a in rest)
    acquired = int(study.series[0].facts.get("acquisition_matrix") or 0)
    finer = _same_centre(grid, sizes, edges)
    return Refinement(axis, {axis: stack}, pixels, finer, not known, shown, acquired)


def _resized(count: int, pixel: float, spacing: float) -> np.ndarray:
    """(new, old) weights of pixels averaged over larger voxels, or interpolated to smaller ones."""
    if pixel > spacing:
        return SliceStack.centred(count, pixel, pixel, spacing).refine()
    size = max(1, round(count * pixel / spacing))
    first = (count - 1) / 2 - (size - 1) / 2 * spacing / pixel
    return SliceStack(size, spacing, spacing, count, pixel, first).acquire()


def _same_centre(grid: Grid, sizes: list[int], edges: list[float]) -> Grid:
    scale = np.array(edges) / grid.spacing
    affine = grid.affine.astype(np.float64).copy()
    affine[:3, :3] = grid.affine[:3, :3] * scale
    middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(sizes) - 1) / 2)
    return Grid((sizes[0], sizes[1], sizes[2]), affine)


def file_of(study: Study) -> Any:
    """The first file of a study; ``None`` if it is in memory."""
    return study.series[0].paths[0] if study.series[0].paths else None


class Refined(MapTransform, ABC):
    """Images on a finer grid as a network sees them, with their `Refinement` in the meta data.

    Parameters
    ----------
    keys
        Images (1, X, Y, Z), whose studies stand beside them as `LoadStudyd` leaves them; they become
        (C, X', Y', Z'), see `network_input`.
    """

    @abstractmethod
    def refinement(self, study: LoadedStudy) -> Refinement:
        """The refinement of a study."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with images (C, X', Y', Z')."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key]
            refinement = self.refinement(sample[f"{key}_study"])
            channels = network_input(refinement.slices(image.as_tensor())[0], refinement.stacks)
            meta = {**image.meta, "affine": torch.from_numpy(refinement.grid.affine), REFINEMENT: refinement}
            sample[key] = MetaTensor(channels, meta=meta)
        return sample


class RefineSlicesd(Refined):
    """Images of thick slices on a finer grid, with the distance of each voxel from its slice.

    Parameters
    ----------
    keys
        As `Refined` takes them; images get four channels.
    spacing
        Distance of the finer grid's voxels, in mm.
    """

    def __init__(self, keys: KeysCollection, spacing: float = 1.0) -> None:
        super().__init__(keys)
        self.spacing = spacing

    def refinement(self, study: LoadedStudy) -> Refinement:
        """The refinement of thick slices, see `refinement_of`."""
        return refinement_of(study, self.spacing)


def prepare_thick_slices(
    keys: str, limits: tuple[float, float], unit: float | None = None, spacing: float = 1.0
) -> Compose:
    """Transforms from a study of thick slices to the input of a through-plane super-resolution network.

    Parameters
    ----------
    keys
        Key of the study, and then of its image (4, X, Y, Z) on the finer grid, see `network_input`.
    limits, unit
        As `ScaleToUnitd` takes them.
    spacing
        Distance of the finer grid's voxels, in mm.
    """
    return Compose([LoadStudyd(keys), ScaleToUnitd(keys, limits, unit), RefineSlicesd(keys, spacing)])
