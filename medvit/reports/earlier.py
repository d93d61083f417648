"""The structures of an earlier study, aligned with the present one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medvit.errors import MedvitError, StudyError
from medvit.reports.prior import Prior
from medvit.studies.formats import read_label_map
from medvit.studies.gate import is_sheared
from medvit.studies.grids import resample_onto
from medvit.studies.labels import LabelTable
from medvit.studies.study import Grid, LabelMap
from medvit.transforms.registration import register_rigidly, rigid_from_points

# Two studies of one head agree in more of their labelled voxels than this; two heads, however placed, do not.
CREDIBLE = 0.7
# Label maps are aligned at about this voxel size.
_FINE_MM = 2.0


@dataclass(frozen=True)
class EarlierLabels:
    """The label map of an earlier study, moved rigidly onto the present one.

    Parameters
    ----------
    labels
        (X, Y, Z) on the grid of the present study, in the values of its table.
    angle
        Angle in degrees by which the head was turned between the studies.
    shift
        Distance in mm by which the centre of what is labelled moved.
    agreement
        Twice the voxels with one label in both, divided by all labelled ones of both, where both scans reach.
    """

    labels: np.ndarray
    angle: float
    shift: float
    agreement: float


class NotAligned(MedvitError):
    """An earlier study cannot be shown in the place of the present one; `reason` is a key of the locales."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def place_earlier(prior: Prior, labels: np.ndarray, grid: Grid, table: LabelTable) -> EarlierLabels:
    """Bring the label map that lies beside the measurements of an earlier study onto the present one.

    Parameters
    ----------
    labels, grid, table
        Label map of the present study.

    Raises
    ------
    NotAligned
        If there is no such label map, it has other structures, or the two do not agree once aligned.
    """
    if prior.label_map is None:
        raise NotAligned("not_drawn_missing", f"{prior.study_id}: no labels.nii.gz beside its measurements")
    try:
        found = read_label_map(prior.label_map)
        values = _values_in(table, prior.label_map, int(found.array.max(initial=0)))
    except (StudyError, ValueError, KeyError, AttributeError) as error:
        raise NotAligned("not_drawn_missing", f"{prior.label_map}: {error}") from error
    earlier = LabelMap(values[found.array], found.grid)
    return align(earlier, LabelMap(labels, grid))


def align(earlier: LabelMap, present: LabelMap) -> EarlierLabels:
    """Align two label maps of one patient, in the same values, by a rotation and a shift.

    Raises
    ------
    NotAligned
        If they share no structure, a grid is sheared, or they do not agree once aligned.
    """
    before, now = _thinned(earlier), _thinned(present)
    shared = sorted(before.values & now.values)
    if not shared or is_sheared(before.grid.affine) or is_sheared(now.grid.affine):
        raise NotAligned("not_drawn_other", "the studies share no structure to align them by")
    centres, earlier_centres = (_centres(one, shared) for one in (now, before))
    weights = np.bincount(now.array.ravel())[shared].astype(float)
    start = rigid_from_points(centres, earlier_centres, np.sqrt(weights))
    to_earlier = register_rigidly(_as_image(now.array), now.grid, _as_image(before.array), before.grid, start)
    back = np.linalg.inv(to_earlier)
    agreement = _agreement(now, before.array, Grid(before.grid.shape, back @ before.grid.affine))
    if agreement < CREDIBLE:
        raise NotAligned(
            "not_drawn_apart", f"the studies agree in only {agreement:.0%} of what is labelled once aligned"
        )
    moved = Grid(earlier.grid.shape, back @ earlier.grid.affine)
    cosine = (np.trace(to_earlier[:3, :3]) - 1) / 2
    middle = np.append(np.average(centres, axis=0, weights=weights), 1.0)
    return EarlierLabels(
        resample_onto(present.grid, earlier.array, moved, nearest=True),
        float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
        float(np.linalg.norm((to_earlier @ middle - middle)[:3])),
        agreement,
    )


def _thinned(label_map: LabelMap) -> LabelMap:
    """Every voxel, every second one, ... along each axis, so that they are about `_FINE_MM` apart."""
    i, j, k = (max(1, round(_FINE_MM / mm)) for mm in label_map.grid.spacing)
    array = label_map.array[::i, ::j, ::k]
    x, y, z = array.shape
    return LabelMap(array, Grid((x, y, z), label_map.grid.affine @ np.diag([i, j, k, 1.0])))


def _agreement(present: LabelMap, earlier: np.ndarray, moved: Grid) -> float:
    """Twice the voxels with one label in both, divided by all labelled ones of both."""
    labels = resample_onto(present.grid, earlier, moved, nearest=True)
    both = np.count_nonzero((labels == present.array) & (labels > 0))
    # Voxels beyond the edge of the other scan, such as a neck, are not a disagreement.
    reached = resample_onto(present.grid, np.ones(moved.shape, np.uint8), moved, nearest=True) > 0
    labelled = int(np.count_nonzero(labels)) + int(np.count_nonzero(present.array[reached]))
    return 2 * int(both) / max(labelled, 1)


def _values_in(table: LabelTable, path: Path, largest: int) -> np.ndarray:
    """The value in `table` of each value of a label map, by the names beside it; 0 where there is none."""
    names = table.file_names
    beside = path.with_name("labels.json")
    if beside.is_file():
        names = {int(v): name for v, name in json.loads(beside.read_text("utf-8"))["labels"].items()}
    values = np.zeros(max(largest, *names) + 1, np.uint16)
    for value, name in names.items():
        values[value] = table.by_name[name].value if name in table.by_name else 0
    return values


def _centres(label_map: LabelMap, values: Sequence[int]) -> np.ndarray:
    """(N, 3) centres of mass in RAS+ mm."""
    indices = np.array(ndimage.center_of_mass(label_map.array > 0, label_map.array, values))
    return indices @ label_map.grid.affine[:3, :3].T + label_map.grid.affine[:3, 3]


def _as_image(labels: np.ndarray) -> np.ndarray:
    """Labels as intensities in which neighbouring structures differ, whatever their values."""
    levels = 0.5 + 0.5 * (np.arange(int(labels.max(initial=0)) + 1) * 0.618034 % 1)
    levels[0] = 0
    return levels.astype(np.float32)[labels]
