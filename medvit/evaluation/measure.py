"""The scores of one study: every structure of its predicted label map against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medvit.data.study import Grid
from medvit.errors import StudyError
from medvit.evaluation.pairing import Pair
from medvit.evaluation.structures import Region, regions_beside, regions_of_values
from medvit.metrics import (
    centreline_dice,
    dice,
    iou,
    lesion_scores,
    surface_distances,
    volume_error,
    volume_ml,
)
from medvit.metrics.masks import common_box

# Grids that differ by less are the same to within what headers can hold.
SAME_GRID = 0.01  # of a voxel


@dataclass(frozen=True)
class Options:
    """What to measure.

    Parameters
    ----------
    tolerance
        Of the surface Dice, in mm.
    lesions
        Score lesion by lesion as well (BraTS 2023, settings for gliomas).
    centreline
        Score centre-lines as well.
    """

    tolerance: float = 1.0
    lesions: bool = False
    centreline: bool = False


@dataclass(frozen=True)
class StudyScores:
    """What was measured in one study.

    Parameters
    ----------
    study
        Its name.
    presence
        Of each structure: ``"both"``, ``"prediction"``, ``"reference"`` or ``"neither"``.
    values
        Of each structure: metric to value; ``nan`` where undefined, infinite where one side is empty.
    notes
        What a person should know, in sentences.
    """

    study: str
    presence: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def measure_pair(pair: Pair, regions: Sequence[Region] | None, options: Options) -> StudyScores:
    """The scores of one study.

    Parameters
    ----------
    regions
        What to compare. By default what the names beside the reference or the prediction say, or else every
        value that occurs in either.

    Raises
    ------
    StudyError
        If a label map cannot be read or is none, or the two lie on different grids.
    """
    reference, grid = read_label_map(pair.reference)
    prediction, own_grid = read_label_map(pair.prediction)
    _check_grids(pair, own_grid, grid)
    values = {int(v) for labels in (prediction, reference) for v in np.flatnonzero(np.bincount(labels.flat))}
    known = regions or regions_beside(pair.reference) or regions_beside(pair.prediction)
    known = known or regions_of_values(values)
    unnamed = sorted(values - {0} - {v for region in known for v in region.values})
    scores = StudyScores(
        pair.study,
        notes=(f"Values without a name were not compared: {', '.join(map(str, unnamed))}.",)
        if unnamed
        else (),
    )
    for region in known:
        masks = region.mask(prediction), region.mask(reference)
        present = [bool(mask.any()) for mask in masks]
        scores.presence[region.name] = {
            (True, True): "both", (True, False): "prediction", (False, True): "reference",
        }.get((present[0], present[1]), "neither")  # fmt: skip
        scores.values[region.name] = _measure(*masks, grid, options)
    return scores


def read_label_map(path: Path) -> tuple[np.ndarray, Grid]:
    """(X, Y, Z) uint16 labels and their grid.

    Raises
    ------
    StudyError
        If the file cannot be read, or holds anything but integers from 0 to 65535.
    """
    from medvit.data import itk, nifti

    if path.name.lower().endswith((".nii", ".nii.gz")):
        header = nifti.read_header(path)
        (values, _), grid = nifti.read_image(header), header.grid
    else:
        values, grid, _ = itk.read_image(path)
    labels = values.clip(0, 65535).astype(np.uint16)
    if not np.array_equal(labels, values):
        what = "is no label map, for it holds values other than integers from 0 to 65535"
        do = "give the label map, resampled by nearest neighbour if at all"
        raise StudyError("not-a-label-map", what, path=path, do=do)
    return labels, grid


def _check_grids(pair: Pair, own: Grid, reference: Grid) -> None:
    if own.matches(reference, SAME_GRID * min(reference.spacing)):
        return
    shapes = [" x ".join(map(str, grid.shape)) for grid in (own, reference)]
    spacings = [" x ".join(f"{length:.3g}" for length in grid.spacing) for grid in (own, reference)]
    what = f"lies on another grid ({shapes[0]} voxels of {spacings[0]} mm) than its reference " + (
        f"({shapes[1]} voxels of {spacings[1]} mm)"
        if (shapes[0], spacings[0]) != (shapes[1], spacings[1])
        else "(of equal size, but placed or turned otherwise)"
    )
    do = "bring the prediction onto the reference's grid by nearest neighbour"
    raise StudyError("other-grid", what, path=pair.prediction, do=do)


def _measure(prediction: np.ndarray, reference: np.ndarray, grid: Grid, options: Options) -> dict[str, float]:
    # Growing lesions takes room around them; all else lies in the box that holds both.
    box = common_box(prediction, reference)
    a, b = prediction[box], reference[box]
    steps = grid.affine[:3, :3]
    distances = surface_distances(a, b, steps)
    error = volume_error(a, b, grid.voxel_volume)
    values = {
        "dice": dice(a, b),
        "iou": iou(a, b),
        "surface_dice": distances.dice(options.tolerance),
        "hd95_mm": distances.hd95,
        "assd_mm": distances.assd,
        "volume_prediction_ml": volume_ml(a, grid.voxel_volume),
        "volume_reference_ml": volume_ml(b, grid.voxel_volume),
        "volume_error_ml": error.ml,
        "volume_error_percent": error.percent,
    }
    if options.centreline:
        values["centreline_dice"] = centreline_dice(a, b)
    if options.lesions:
        lesions = lesion_scores(prediction, reference, steps)
        values |= {
            "lesion_dice": lesions.dice,
            "lesion_hd95_mm": lesions.hd95,
            "lesion_f1": lesions.f1,
            "lesions_found": float(lesions.found),
            "lesions_missed": float(lesions.missed),
            "lesions_false": float(lesions.false),
        }
    return values
