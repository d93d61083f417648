"""From planes to a stack: ordered by position, without repeats, at even steps, with one affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.tag import Tag

from medvit.errors import StudyError
from medvit.studies.dicom.headers import open_dataset
from medvit.studies.dicom.planes import MAX_SPACING_MM, MAX_VOXELS, Plane, check_one_rescale
from medvit.studies.study import Grid

# Positions count as equal, and steps as even, within these.
SAME_PLACE_MM = 0.01
EVEN_STEP = 0.01
# Largest distance of a plane from its place by the affine, as a share of a step or of a pixel.
OFF_AFFINE = 0.1
# Error of positions that were rounded to a tenth of a millimetre.
ROUNDED_MM = 0.05

_POSITION = "ImagePositionPatient (0020,0032)"


@dataclass(frozen=True)
class Stack:
    """A volume's planes in the order of the third axis, and its grid.

    Parameters
    ----------
    planes
        Sorted along the normal.
    grid
        (columns, rows, planes), RAS+ millimetres; sheared where the gantry was tilted.
    shear
        Displacement of each plane against the one before it, in pixels along columns and rows.
    notes
        What was decided, in sentences.
    """

    planes: tuple[Plane, ...]
    grid: Grid
    shear: tuple[float, float]
    notes: tuple[str, ...] = ()

    @property
    def tilted(self) -> bool:
        """Whether the last plane, stacked upright, would be displaced by a tenth of a pixel or more."""
        return max(map(abs, self.shear)) * (len(self.planes) - 1) >= OFF_AFFINE


def heights(planes: Sequence[Plane]) -> np.ndarray:
    """Positions along the normal of the first plane, in mm."""
    return np.array([p.position for p in planes]) @ planes[0].normal


def ranks(planes: Sequence[Plane]) -> np.ndarray:
    """Number of each plane's position along the normal; equal for planes at one place."""
    height = heights(planes)
    order = np.argsort(height, kind="stable")
    rank = np.empty(len(planes), int)
    rank[order] = np.cumsum(np.diff(height[order], prepend=height[order[0]]) > SAME_PLACE_MM)
    return rank


def stack(planes: Sequence[Plane]) -> Stack:
    """The volume that the planes form.

    Raises
    ------
    StudyError
        If two different images share a place, a slice is missing, steps are uneven, or planes are out of line
        with the others.
    """
    kept, notes = _without_repeats(planes)
    check_one_rescale(kept)
    rows, columns = kept[0].shape
    if rows * columns * len(kept) > MAX_VOXELS:
        what = f"{len(kept)} images of {rows} x {columns} are more than a volume may have"
        raise kept[0].header.fault("dicom-too-large", what, "Rows")
    try:
        step = _step(kept)
        affine = _affine(kept[0], step, kept[0].position)
        _check_on_affine(kept, affine)
    except StudyError:
        nearly = _nearly_even(kept)
        if nearly is None:
            raise
        step, start, deviation = nearly
        affine = _affine(kept[0], step, start)
        notes += (f"Slices lie up to {deviation:.3f} mm off an even grid, which was taken as exact.",)
    if step @ kept[0].normal > MAX_SPACING_MM:
        what = f"slices {step @ kept[0].normal:g} mm apart do not form a volume"
        raise kept[0].header.fault("dicom-bad-spacing", what, "ImagePositionPatient")
    across = step - (step @ kept[0].normal) * kept[0].normal
    orientation, spacing = kept[0].orientation, kept[0].spacing
    shear = across @ orientation[:3] / spacing[1], across @ orientation[3:] / spacing[0]
    affine[:2] *= -1  # DICOM's LPS to RAS
    grid = Grid((columns, rows, len(kept)), affine)
    return Stack(tuple(kept), grid, (float(shear[0]), float(shear[1])), notes)


def _affine(first: Plane, step: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Column, row and slice to LPS mm."""
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.spacing[1]
    affine[:3, 1] = first.orientation[3:] * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = start
    return affine


def _nearly_even(planes: list[Plane]) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Step, start and largest deviation (mm) of the even grid from which positions were rounded, if any."""
    positions = np.array([plane.position for plane in planes])
    count = np.arange(len(planes))[:, None]
    step = _straightest(positions)
    rest = positions - count * step
    if not np.ptp(rest, axis=0).max() / 2 <= ROUNDED_MM + 1e-6:
        return None
    # A slice missing from a fine stack must not pass for rounding.
    if step @ planes[0].normal < 8 * ROUNDED_MM:
        return None
    upright = (step @ planes[0].normal) * planes[0].normal
    if np.abs(step - upright).max() * (len(planes) - 1) <= 2 * ROUNDED_MM:
        step, rest = upright, positions - count * upright
    start = (rest.max(axis=0) + rest.min(axis=0)) / 2
    return step, start, float(np.abs(rest - start).max())


def _straightest(positions: np.ndarray) -> np.ndarray:
    """Slope of each coordinate's line with the smallest maximum distance from its points, by bisection."""
    count = np.arange(len(positions))[:, None]
    middle = (positions[-1] - positions[0]) / max(1, len(positions) - 1)
    low, high = middle - 2 * ROUNDED_MM, middle + 2 * ROUNDED_MM
    for _ in range(100):
        third = (high - low) / 3
        worse = np.ptp(positions - count * (low + third), axis=0) > np.ptp(
            positions - count * (high - third), axis=0
        )
        low, high = np.where(worse, low + third, low), np.where(worse, high, high - third)
    return (low + high) / 2


def _step(planes: list[Plane]) -> np.ndarray:
    """The vector from one plane to the next, LPS mm."""
    if len(planes) == 1:
        if planes[0].thickness is None:
            what = "a single slice without a thickness has no place in space"
            raise planes[0].header.fault("dicom-missing-attribute", what, "SliceThickness")
        return planes[0].normal * planes[0].thickness
    gaps = np.diff(heights(planes))
    usual = float(np.median(gaps))
    off = np.abs(gaps - usual) > max(SAME_PLACE_MM, EVEN_STEP * usual)
    if off.any():
        raise _uneven(planes, gaps, usual, int(np.argmax(off)))
    return (planes[-1].position - planes[0].position) / (len(planes) - 1)


def _uneven(planes: list[Plane], gaps: np.ndarray, usual: float, at: int) -> StudyError:
    before, after = planes[at], planes[at + 1]
    missing = round(float(gaps[at]) / usual) - 1
    whole = abs(float(gaps[at]) - (missing + 1) * usual) <= max(SAME_PLACE_MM, EVEN_STEP * usual)
    between = f"between {before.header.path.name} and {after.header.path.name}"
    if missing > 0 and whole:
        what = f"{missing} of the slices {between} {'is' if missing == 1 else 'are'} missing"
        return StudyError(
            "dicom-missing-slice", what, path=before.header.path, tag=_POSITION,
            do="fetch the series again in full",
        )  # fmt: skip
    what = f"the slices are {usual:.4g} mm apart, but {float(gaps[at]):.4g} mm {between}"
    return StudyError(
        "dicom-uneven-spacing", what, path=before.header.path, tag=_POSITION,
        do="fetch the series again, or have it reconstructed at even steps",
    )  # fmt: skip


def _check_on_affine(planes: list[Plane], affine: np.ndarray) -> None:
    """Each plane must lie where the affine says, to `OFF_AFFINE` of a voxel."""
    count = len(planes)
    expected = affine[:3, 3] + np.arange(count)[:, None] * affine[:3, 2]
    off = np.array([p.position for p in planes]) - expected
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    limits = np.maximum(SAME_PLACE_MM, OFF_AFFINE * np.linalg.norm(affine[:3, :3], axis=0))
    wrong = (np.abs(off @ axes) > limits).any(axis=1)
    if wrong.any():
        stray = planes[int(np.argmax(wrong))]
        raise stray.header.fault(
            "dicom-uneven-spacing", "this image is out of line with the others", "ImagePositionPatient"
        )


def _without_repeats(planes: Sequence[Plane]) -> tuple[list[Plane], tuple[str, ...]]:
    """Planes sorted by position, one of each set of identical copies."""
    rank = ranks(planes)
    kept: list[Plane] = []
    dropped = 0
    previous = -1
    # Among copies the first by name is kept, so that the choice does not depend on the order of the list.
    for i in sorted(range(len(planes)), key=lambda i: (rank[i], str(planes[i].header.path), planes[i].frame)):
        if rank[i] != previous:
            kept.append(planes[i])
            previous = rank[i]
        elif _copies(kept[-1], planes[i]):
            dropped += 1
        else:
            what = f"this image and {kept[-1].header.path.name} differ but lie at one place"
            raise planes[i].header.fault(
                "dicom-two-images-at-one-place", what, "ImagePositionPatient",
                "keep one of the two, or put each time point into a separate folder",
            )  # fmt: skip
    copies = "1 copy of another file" if dropped == 1 else f"{dropped} copies of other files"
    return kept, (f"Left out {copies}.",) if dropped else ()


def _copies(one: Plane, other: Plane) -> bool:
    a, b = one.header, other.header
    if a.path == b.path:
        return False
    if a.path.read_bytes() == b.path.read_bytes():
        return True
    uid = a.text("SOPInstanceUID")
    same_values = one.rescale == other.rescale and a.syntax == b.syntax
    same_object = bool(uid) and uid == b.text("SOPInstanceUID")
    return same_object and same_values and _pixel_bytes(a.path) == _pixel_bytes(b.path)


def _pixel_bytes(path: Path) -> bytes:
    dataset, _ = open_dataset(path, [Tag("PixelData")])
    element = dataset.get_item("PixelData")
    return b"" if element is None else bytes(element.value or b"")
