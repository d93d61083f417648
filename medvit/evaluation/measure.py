"""The scores of one study: every structure of its predicted label map against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medvit.errors import StudyError
from medvit.evaluation.pairing import Pair
from medvit.evaluation.sides import Regions, Side, on_one_grid, read_probabilities, read_side, regions_of
from medvit.evaluation.structures import Region, regions_beside, regions_of_values
from medvit.metrics import (
    Reliability,
    centreline_dice,
    dice,
    iou,
    lesion_scores,
    reliability,
    surface_distances,
    volume_error,
    volume_ml,
)
from medvit.metrics.masks import common_box
from medvit.studies.study import Grid

# Structures are certainly absent nearly everywhere: below this probability no voxel counts for calibration.
LEAST_PROBABILITY = 0.01


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
    probabilities
        The predictions are probability maps: score their calibration as well.
    window
        The pairs are images, compared within these values (in HU for CT), and no label maps.
    """

    tolerance: float = 1.0
    lesions: bool = False
    centreline: bool = False
    probabilities: bool = False
    window: tuple[float, float] | None = None


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
    reliability
        Of each structure, where the prediction is a probability map.
    """

    study: str
    presence: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reliability: dict[str, Reliability] = field(default_factory=dict)


def measure_pair(
    pair: Pair,
    regions: Sequence[Region] | None,
    options: Options,
    *,
    drawn: Sequence[Region] | None = None,
) -> StudyScores:
    """The scores of one study.

    Parameters
    ----------
    regions
        What to compare. By default what the names beside the reference or the prediction say or the
        segments of a DICOM segmentation are, or else every value that occurs in either.
    drawn
        The same structures by their values in the reference, where these are others.

    Raises
    ------
    StudyError
        If a label map cannot be read or is none, the two lie on different grids, or share no structure.
    """
    read = read_probabilities if options.probabilities else read_side
    prediction, reference = on_one_grid(read(pair.prediction), read_side(pair.reference))
    known = regions or _regions_known(prediction, reference)
    ours, theirs = regions_of(prediction, known), regions_of(reference, drawn or known)
    notes = (_unnamed(prediction, ours, reference, theirs), _not_in_both(prediction, ours, reference, theirs))
    scores = StudyScores(pair.study, notes=tuple(note for note in notes if note))
    for region, own, other in zip(known, ours, theirs, strict=True):
        if own is None or other is None:
            continue
        masks = own.mask(prediction.label_map), other.mask(reference.label_map)
        present = [bool(mask.any()) for mask in masks]
        scores.presence[region.name] = {
            (True, True): "both", (True, False): "prediction", (False, True): "reference",
        }.get((present[0], present[1]), "neither")  # fmt: skip
        scores.values[region.name] = _measure(*masks, reference.grid, options)
        if prediction.probabilities is not None:
            found = _reliability(prediction.probabilities, own, masks[1])
            scores.reliability[region.name] = found
            scores.values[region.name]["ece"] = found.ece
    if known and not scores.values:
        names = [", ".join(r.name for r in side.segments or known) for side in (prediction, reference)]
        what = f"has no structure in common with its reference ({names[0]}; reference: {names[1]})"
        do = "give a label table with the names of the segments (--labels)"
        raise StudyError("no-common-structure", what, path=pair.prediction, do=do)
    return scores


def _regions_known(prediction: Side, reference: Side) -> tuple[Region, ...]:
    """What files themselves say: names beside them or of segments, or else every value that occurs."""
    plain = [side for side in (reference, prediction) if not side.segments]
    named = next((found for side in plain if (found := regions_beside(side.path))), ())
    if named or not plain:
        return named or reference.segments
    if len(plain) == 1:
        what = "has values without names, which cannot be matched to the segments of the other side"
        raise StudyError("no-names", what, path=plain[0].path, do="name them by a label table (--labels)")
    return regions_of_values(prediction.values | reference.values)


def _unnamed(prediction: Side, ours: Regions, reference: Side, theirs: Regions) -> str:
    """A note on values that no region has; those of a segmentation are all named."""
    values: set[int] = set()
    for side, regions in ((prediction, ours), (reference, theirs)):
        if not side.segments:
            values |= side.values - {value for region in regions if region for value in region.values}
    if not values:
        return ""
    return f"Values without a name were not compared: {', '.join(map(str, sorted(values)))}."


def _not_in_both(prediction: Side, ours: Regions, reference: Side, theirs: Regions) -> str:
    """A note on structures that one of the sides does not describe, which is not the same as empty."""
    names: list[str] = []
    for own, other in zip(ours, theirs, strict=True):
        if (own is None) != (other is None):
            names.append((own or other).name)  # type: ignore[union-attr]
    for side, regions in ((prediction, ours), (reference, theirs)):
        names += [segment.name for segment in side.segments if segment not in regions]
    if not names:
        return ""
    return f"Not described on both sides, and not compared: {', '.join(dict.fromkeys(names))}."


def _reliability(probabilities: np.ndarray, region: Region, reference: np.ndarray) -> Reliability:
    # A choice by probability alone; one by the reference would make every low probability look wrong.
    channels = [value for value in region.values if value < len(probabilities)]
    p = probabilities[channels].sum(axis=0).clip(0, 1)
    asked = p >= LEAST_PROBABILITY
    return reliability(p[asked], reference[asked])


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
