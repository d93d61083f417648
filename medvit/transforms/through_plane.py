"""Studies of thick slices on a finer grid, as a super-resolution network takes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from torch import Tensor

from medvit.errors import StudyError
from medvit.studies.study import Grid, LoadedStudy, Study
from medvit.transforms.load_study import LoadStudyd
from medvit.transforms.restoration import ScaleToUnitd
from medvit.transforms.slice_stack import SliceStack, along, network_input, refined_along

# Slices closer than this many voxels of the finer grid need no estimate.
_LEAST_STEP = 1.5
# Pixels of a slice stay as they are between these many voxels of the finer grid, and are refused beyond.
_LIKE_A_VOXEL = (0.75, 1.25)
_COARSEST_PIXEL = 1.5
# A thickness in a header is accepted between these shares of the step.
_LIKELY_THICKNESS = (0.3, 2.0)
# At this ratio of shown to acquired pixels or more, a scanner has interpolated; partial k-space stays below.
INTERPOLATED = 1.5
# Key of the meta data that holds the `Refinement` of an image.
REFINEMENT = "refinement"


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
