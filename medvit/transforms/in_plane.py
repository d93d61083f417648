"""From coarse pixels of slices to finer ones: slices of which only the centre of k-space was measured."""

from __future__ import annotations

import numpy as np
from monai.config import KeysCollection
from monai.transforms import Compose

from medvit.errors import StudyError
from medvit.studies.study import Grid, LoadedStudy
from medvit.transforms.load_study import LoadStudyd
from medvit.transforms.restoration import ScaleToUnitd
from medvit.transforms.slice_stack import SliceStack
from medvit.transforms.through_plane import INTERPOLATED, Refined, Refinement, across, file_of, refinement_of

# Edges of a pixel in mm that a network was trained to halve.
_PIXELS = (1.2, 2.6)


def pixel_refinement_of(study: LoadedStudy, factor: int = 2) -> Refinement:
    """The refinement of the pixels of a study's slices, each to `factor` times `factor`.

    A scanner that measures only the lower spatial frequencies gives samples of the image without the higher
    ones, so the first pixels of the finer and the coarse grid have the same position.

    Raises
    ------
    StudyError
        If pixels are too fine or too coarse, or the scanner has interpolated them already.
    """
    grid = study.grid
    axis = _normal(grid)
    rest = [a for a in range(3) if a != axis]
    edges = [grid.spacing[a] for a in rest]
    words = " x ".join(f"{edge:.3g}" for edge in edges)
    if min(edges) < _PIXELS[0]:
        what = f"the pixels of its slices are {words} mm wide, too fine to be made finer"
        raise StudyError("fine-pixels", what, path=file_of(study), do="use the study as it is")
    if max(edges) > _PIXELS[1]:
        what = f"the pixels of its slices are {words} mm wide, coarser than those of the training"
        raise StudyError("coarse-pixels", what, path=file_of(study), do="give a series with finer pixels")
    shown = max(grid.shape[a] for a in rest)
    acquired = int(study.series[0].facts.get("acquisition_matrix") or 0)
    if acquired and shown >= INTERPOLATED * acquired:
        what = f"the scanner has already interpolated its pixels ({acquired} acquired, {shown} shown)"
        raise StudyError("interpolated-pixels", what, path=file_of(study), do="use the study as it is")
    affine, shape = grid.affine.astype(np.float64).copy(), list(grid.shape)
    stacks = {}
    for a, edge in zip(rest, edges, strict=True):
        shape[a] *= factor
        affine[:3, a] /= factor
        stacks[a] = SliceStack(grid.shape[a], edge, edge, shape[a], edge / factor, 0.0, "kspace")
    finer = Grid((shape[0], shape[1], shape[2]), affine)
    return Refinement(axis, stacks, {}, finer, False, shown, acquired)


def _normal(grid: Grid) -> int:
    """The axis across the slices, whose pixels are nearly square; the last one for cubic voxels."""
    unlike = {a: round(float(np.ptp(np.log(np.delete(grid.spacing, a)))), 2) for a in (2, 1, 0)}
    return min(unlike, key=unlike.__getitem__)


def refinement_to(study: LoadedStudy, grid: Grid) -> Refinement:
    """The refinement that took a study of thick slices or of coarse pixels to a given grid.

    Raises
    ------
    StudyError
        As `refinement_of` and `pixel_refinement_of` do.
    """
    same = [a for a in range(3) if grid.shape[a] == study.grid.shape[a]]
    factors = {round(grid.shape[a] / study.grid.shape[a]) for a in range(3) if a not in same}
    if len(same) == 1 and len(factors) == 1:
        refinement = pixel_refinement_of(study, factors.pop())
        if refinement.grid.matches(grid):
            return refinement
    return refinement_of(study, grid.spacing[across(study.grid)])


class RefinePixelsd(Refined):
    """Images of coarse pixels on a finer grid in the plane of their slices.

    Parameters
    ----------
    keys
        Same as in `Refined`.
    factor
        Pixels of the finer grid along the edge of a coarse one.
    """

    def __init__(self, keys: KeysCollection, factor: int = 2) -> None:
        super().__init__(keys)
        self.factor = factor

    def refinement(self, study: LoadedStudy) -> Refinement:
        """The refinement of coarse pixels, see `pixel_refinement_of`."""
        return pixel_refinement_of(study, self.factor)


def prepare_coarse_pixels(
    keys: str, limits: tuple[float, float], unit: float | None = None, factor: int = 2
) -> Compose:
    """Transforms from a study of slices with coarse pixels to the input of an in-plane network.

    Parameters
    ----------
    keys
        Key of the study, and then of its image (3, X, Y, Z) on the finer grid, see `network_input`.
    limits, unit
        As `ScaleToUnitd` takes them.
    factor
        Pixels of the finer grid along the edge of a coarse one.
    """
    return Compose([LoadStudyd(keys), ScaleToUnitd(keys, limits, unit), RefinePixelsd(keys, factor)])
