"""The volume for display: turned to radiological order, windowed to grey levels, with its labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from medvit.reports.orientation import obliquity, to_display_order
from medvit.studies.labels import LabelTable
from medvit.studies.study import Grid

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")

# Display axis across which a plane is cut. Axes run right to left, front to back, head to feet.
NORMAL_AXIS: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}

# Centre and width in HU.
BRAIN_WINDOW = (40.0, 80.0)
SOFT_TISSUE_WINDOW = (40.0, 400.0)

# Margin around what is labelled: the skull and some neck of a brain, the wall of a body.
MARGIN_MM = 22.0


@dataclass(frozen=True)
class Display:
    """A study ready to be drawn.

    Parameters
    ----------
    grey
        (X, Y, Z) uint8 grey levels; axes run right to left, front to back, head to feet.
    labels
        (X, Y, Z) label map in the same order.
    spacing
        Spacing in mm, in the same order.
    window
        Lowest and highest intensity shown.
    tilt
        Angle in degrees between the scan and the patient's axes, which the pictures do not correct.
    table
        Names and colours of the labels.
    first
        Voxel of the whole scan, in the same order, at which the shown part begins.
    """

    grey: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float, float]
    window: tuple[float, float]
    tilt: float
    table: LabelTable
    first: tuple[int, int, int] = (0, 0, 0)

    def cut(self, volume: np.ndarray, plane: Plane, index: int) -> np.ndarray:
        """One slice as (rows, columns): patient left on the right; sagittal slices look to the left."""
        # Not np.take: it would first copy the whole volume, whose axes are turned.
        return np.moveaxis(volume, NORMAL_AXIS[plane], 0)[index].T

    def pixel_size(self, plane: Plane) -> tuple[float, float]:
        """Height and width of a pixel of `cut` in mm."""
        x, y, z = self.spacing
        sizes: dict[Plane, tuple[float, float]] = {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}
        return sizes[plane]


def prepare(
    label_map: np.ndarray, grid: Grid, table: LabelTable, image: np.ndarray | None, modality: str = ""
) -> Display:
    """Turn and window a study for display; without an image the labels stand on black.

    Parameters
    ----------
    label_map, image
        (X, Y, Z) in the grid's order.
    modality
        DICOM modality; CT gets a window in HU, PET is shown dark on white, others by percentiles.
    """
    labels, spacing = to_display_order(label_map, grid)
    box = _frame(labels, spacing)
    labels = labels[box]
    if image is None:
        grey, window = np.zeros(labels.shape, np.uint8), (0.0, 1.0)
    else:
        shown = to_display_order(image, grid)[0][box]
        window = choose_window(shown, labels, table, modality)
        grey = to_grey(shown, window)
        if modality == "PT":
            grey = 255 - grey
    first = (box[0].start, box[1].start, box[2].start)
    return Display(grey, labels, spacing, window, obliquity(grid.affine), table, first)


def _frame(labels: np.ndarray, spacing: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """The box of all labels with a margin; the whole volume when nothing is labelled."""
    found = ndimage.find_objects((labels > 0).view(np.uint8))
    if not found:
        return slice(0, labels.shape[0]), slice(0, labels.shape[1]), slice(0, labels.shape[2])
    x, y, z = (
        slice(max(0, s.start - round(MARGIN_MM / mm)), min(n, s.stop + round(MARGIN_MM / mm)))
        for s, n, mm in zip(found[0], labels.shape, spacing, strict=True)
    )
    return x, y, z


def choose_window(
    image: np.ndarray, label_map: np.ndarray, table: LabelTable, modality: str
) -> tuple[float, float]:
    """Lowest and highest intensity to show; both arrays already cut to what is shown.

    CT has fixed windows in HU. For the rest, from the darkest 2 % of what is shown to the brightest 0.5 % of
    what is labelled (or, where that is dark, 3 % of what is shown), with some to spare above.
    """
    if modality == "CT":
        centre, width = BRAIN_WINDOW if table.name == "brain" else SOFT_TISSUE_WINDOW
        return centre - width / 2, centre + width / 2
    step = max(1, int(image.size / 2e6))
    values, labels = image.reshape(-1)[::step], label_map.reshape(-1)[::step]
    finite = np.isfinite(values)
    values, labelled = values[finite], values[finite & (labels > 0)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (2, 97)))
    if labelled.size >= 100:
        high = max(high, float(np.percentile(labelled, 99.5)))
    low = min(low, 0.0) if modality == "PT" else low
    return (low, high + 0.1 * (high - low)) if high > low else (low, low + 1.0)


def to_grey(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Map a window of intensities to uint8; what is not finite becomes black."""
    low, high = window
    scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.nan_to_num(np.clip(scaled, 0, 255), nan=0.0).astype(np.uint8)
