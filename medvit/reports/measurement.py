"""Measurements of a label map: volumes, shares, asymmetry, intensities, and contact with the border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medvit.errors import MedvitError
from medvit.reports.orientation import face_names
from medvit.studies.labels import LabelTable, Structure
from medvit.studies.study import Grid

Box = tuple[slice, slice, slice]

# Name of the reference volume of a head.
INTRACRANIAL = "intracranial volume"

# Above this, in HU, a voxel of a CT belongs to the body: fat is about -100, lung and air lie below.
BODY_HU = -300.0


@dataclass(frozen=True)
class StructureMeasurement:
    """Measurements of one structure.

    Parameters
    ----------
    structure
        Entry of the label table.
    voxels, volume_ml
        Extent; both 0 if the structure was not found.
    share
        Share of the reference volume (`Measurements.whole_ml`), 0 to 1; ``nan`` when that is empty.
    intensity_mean, intensity_std
        Mean and standard deviation over the structure's finite voxels, in the unit of the image; ``None``
        without an image.
    border
        Faces of the scan that the structure touches, such as ``("inferior",)``.
    border_mm2
        Its largest area on one of these faces.
    parts
        Number of pieces that do not touch one another (26-neighbourhood).
    largest_part
        Share of the structure's volume in its largest piece, 0 to 1.
    confidence
        Mean confidence of the network over the structure, 0 to 1; ``None`` when it was not given.
    centroid
        Centre of mass in RAS+ patient millimetres; ``None`` when the structure was not found.
    """

    structure: Structure
    voxels: int
    volume_ml: float
    share: float
    intensity_mean: float | None = None
    intensity_std: float | None = None
    border: tuple[str, ...] = ()
    border_mm2: float = 0.0
    parts: int = 0
    largest_part: float = 0.0
    confidence: float | None = None
    centroid: tuple[float, float, float] | None = None

    @property
    def present(self) -> bool:
        """Whether any voxel carries the label."""
        return self.voxels > 0


@dataclass(frozen=True)
class Asymmetry:
    """Left and right volume of a pair, and 100 (L - R) / ((L + R) / 2); ``None`` when a side is absent."""

    name: str
    left_ml: float
    right_ml: float

    @property
    def index(self) -> float | None:
        """Per cent; positive when the left side is larger."""
        if not self.left_ml or not self.right_ml:
            return None
        return 200.0 * (self.left_ml - self.right_ml) / (self.left_ml + self.right_ml)


@dataclass(frozen=True)
class Measurements:
    """All measurements of one label map; `whole_name` names the reference of the shares."""

    structures: tuple[StructureMeasurement, ...]
    asymmetries: tuple[Asymmetry, ...]
    whole_name: str
    whole_ml: float

    def __getitem__(self, name: str) -> StructureMeasurement:
        return next(m for m in self.structures if m.structure.name == name)

    @property
    def present(self) -> tuple[StructureMeasurement, ...]:
        """Structures that were found."""
        return tuple(m for m in self.structures if m.present)

    @property
    def absent(self) -> tuple[StructureMeasurement, ...]:
        """Structures of the table that were not found."""
        return tuple(m for m in self.structures if not m.present)


def measure(
    label_map: np.ndarray,
    grid: Grid,
    table: LabelTable,
    image: np.ndarray | None = None,
    *,
    modality: str = "",
    confidence: np.ndarray | None = None,
) -> Measurements:
    """Measure every structure of `table` in a label map.

    Parameters
    ----------
    label_map
        (X, Y, Z) integers; 0 is background.
    grid
        Grid of the voxels.
    table
        Meaning of the values.
    image
        (X, Y, Z) intensities on the same grid; voxels that are not finite are left out.
    modality
        DICOM modality ("MR", "CT", ...). Shares of a CT that does not show the brain are shares of the body
        in the scan.
    confidence
        (X, Y, Z) probability of the chosen label, 0 to 1.

    Raises
    ------
    MedvitError
        If an array does not have the grid's shape, or the label map holds values that are not in the table.
    """
    label_map = _checked(label_map, grid, table)
    for name, array in (("image", image), ("confidence map", confidence)):
        if array is not None and array.shape != grid.shape:
            raise MedvitError(f"the {name} has shape {array.shape}, but its grid {grid.shape}")
    counts = np.bincount(label_map.ravel(), minlength=len(table) + 1)
    ml = counts * (grid.voxel_volume / 1000.0)
    whole_name, whole_ml = _whole(table, float(ml[1:].sum()), grid, image, modality)
    boxes = ndimage.find_objects(label_map, max_label=len(table))
    shown = table.shown(np.flatnonzero(counts).tolist())
    structures = tuple(
        _measure_one(s, label_map, boxes[s.value - 1], grid, image, confidence, whole_ml) for s in shown
    )
    asymmetries = tuple(
        Asymmetry(left.unsided_name, float(ml[left.value]), float(ml[right.value]))
        for left, right in table.pairs()
        if left in shown
    )
    return Measurements(structures, asymmetries, whole_name, whole_ml)


def _checked(label_map: np.ndarray, grid: Grid, table: LabelTable) -> np.ndarray:
    if label_map.shape != grid.shape:
        raise MedvitError(f"the label map has shape {label_map.shape}, but its grid {grid.shape}")
    if not np.issubdtype(label_map.dtype, np.integer):
        raise MedvitError(
            f"a label map holds integers, not {label_map.dtype}; round it or take the argmax first"
        )
    low, high = (int(label_map.min()), int(label_map.max())) if label_map.size else (0, 0)
    if low < 0 or high > len(table):
        raise MedvitError(
            f"the label map holds values {low} to {high}, but table {table.name!r} names 0 to {len(table)}"
        )
    return label_map.astype(np.uint8 if len(table) < 256 else np.uint16, copy=False)


def _whole(
    table: LabelTable, labelled_ml: float, grid: Grid, image: np.ndarray | None, modality: str
) -> tuple[str, float]:
    if table.name == "brain":
        return INTRACRANIAL, labelled_ml
    if modality == "CT" and image is not None:
        return "body volume in the scan", _body_ml(image, grid)
    return "labelled volume", labelled_ml


def _body_ml(image: np.ndarray, grid: Grid) -> float:
    """Volume of the largest connected object above `BODY_HU`, cavities included, from at most ~4 M voxels."""
    step = max(1, int(np.ceil((image.size / 4e6) ** (1 / 3))))
    coarse = image[::step, ::step, ::step]
    parts, count = ndimage.label(coarse > BODY_HU)
    if not count:
        return 0.0
    body = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    hollow_axis = int(np.argmax(np.abs(grid.affine[2, :3])))
    slices = [ndimage.binary_fill_holes(s) for s in np.moveaxis(body, hollow_axis, 0)]
    share = float(np.mean(slices))
    return share * image.size * grid.voxel_volume / 1000.0


def _measure_one(
    structure: Structure,
    label_map: np.ndarray,
    box: Box | None,
    grid: Grid,
    image: np.ndarray | None,
    confidence: np.ndarray | None,
    whole_ml: float,
) -> StructureMeasurement:
    if box is None:
        return StructureMeasurement(structure, 0, 0.0, 0.0 if whole_ml else float("nan"))
    mask = label_map[box] == structure.value
    voxels = int(np.count_nonzero(mask))
    volume_ml = voxels * grid.voxel_volume / 1000.0
    mean, std = _statistics(image[box][mask]) if image is not None else (None, None)
    faces = _border_areas(mask, box, grid)
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    return StructureMeasurement(
        structure,
        voxels,
        volume_ml,
        volume_ml / whole_ml if whole_ml else float("nan"),
        mean,
        std,
        tuple(faces),
        max(faces.values(), default=0.0),
        int(count),
        float(np.bincount(parts.ravel())[1:].max() / voxels),
        float(confidence[box][mask].mean()) if confidence is not None else None,
        _centroid(mask, box, grid),
    )


def _centroid(mask: np.ndarray, box: Box, grid: Grid) -> tuple[float, float, float]:
    """Centre of mass of a mask that begins at the corner of `box`, in patient millimetres."""
    inside = [
        float(np.average(np.arange(n), weights=np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis}))))
        for axis, n in enumerate(mask.shape)
    ]
    index = [first + part.start for first, part in zip(inside, box, strict=True)]
    x, y, z = grid.affine[:3, :3] @ index + grid.affine[:3, 3]
    return float(x), float(y), float(z)


def _statistics(values: np.ndarray) -> tuple[float | None, float | None]:
    values = values[np.isfinite(values)]
    if not values.size:
        return None, None
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def _border_areas(mask: np.ndarray, box: Sequence[slice], grid: Grid) -> dict[str, float]:
    """Area in mm^2 on each face of the scan that the structure touches.

    An axis with a single voxel is skipped, because everything would touch both of its faces.
    """
    areas: dict[str, float] = {}
    names = face_names(grid.affine)
    for axis, extent in enumerate(box):
        if grid.shape[axis] == 1:
            continue
        across = np.delete(grid.affine[:3, :3], axis, axis=1)
        voxel_area = float(np.linalg.norm(np.cross(across[:, 0], across[:, 1])))
        for end, at_edge in ((0, extent.start == 0), (-1, extent.stop == grid.shape[axis])):
            if at_edge:
                areas[names[axis][end]] = float(np.count_nonzero(mask.take(end, axis)) * voxel_area)
    return areas
