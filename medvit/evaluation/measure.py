"""The scores of one study: every structure of its predicted label map against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medvit.errors import StudyError
from medvit.evaluation.pairing import Pair
from medvit.evaluation.sides import Regions, Side, on_one_grid, read_probabilities, read_side, regions_of
from medvit.evaluation.structures import ScoredStructure, regions_of_values
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
    """Options of an evaluation.

    Parameters
    ----------
    tolerance
        Tolerance of the surface Dice, in mm.
    lesions
        Score lesion by lesion as well (BraTS 2023, settings for gliomas).
    centreline
        Score centre-lines as well.
    probabilities
        Predictions are probability maps: score their calibration as well.
    window
        Pairs are images, not label maps, compared within these values (in HU for CT).
    ignore
        Value of unlabelled voxels in references, which are not compared.
    """

    tolerance: float = 1.0
    lesions: bool = False
    centreline: bool = False
    probabilities: bool = False
    window: tuple[float, float] | None = None
    ignore: int | None = None


@dataclass(frozen=True)
class StudyScores:
    """Measurements of one study.

    Parameters
    ----------
    study
        Name of the study or structure.
    presence
        For each structure: ``"both"``, ``"prediction"``, ``"reference"`` or ``"neither"``.
    values
        For each structure, metric to value; ``nan`` where undefined, infinite where one side is empty.
    notes
        Notes for the user, in sentences.
    reliability
        Reliability of each structure, where the prediction is a probability map.
    """

    study: str
    presence: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reliability: dict[str, Reliability] = field(default_factory=dict)


def measure_pair(
    pair: Pair,
    regions: Sequence[ScoredStructure] | None,
    options: Options,
    *,
    drawn: Sequence[ScoredStructure] | None = None,
) -> StudyScores:
    """The scores of one study.

    Parameters
    ----------
    regions
        Structures to compare. By default what the names beside the reference or the prediction say or the
        segments of a DICOM segmentation are, or else every value that occurs in either.
    drawn
        The same structures by their values in the reference, where these differ.

    Raises
    ------
    StudyError
        If a label map cannot be read or is not valid, the two lie on different grids, or share no structure.
    """
    read = read_probabilities if options.probabilities else read_side
    prediction, reference = on_one_grid(read(pair.prediction), read_side(pair.reference))
    if options.ignore is not None:
        prediction, reference = _without(options.ignore, prediction, reference)
    known = regions or _regions_known(prediction, reference)
    if drawn is None:
        ours, theirs = regions_of(prediction, known), regions_of(reference, known)
        _check_named(prediction, ours, reference, theirs)
    else:
        ours, theirs = known, drawn
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
        sides = (prediction, reference)
        names = [", ".join(r.name for r in side.segments or side.names or known) for side in sides]
        what = f"has no structure in common with its reference ({names[0]}; reference: {names[1]})"
        do = "give a label table (--labels) that names the structures as the other side does"
        raise StudyError("no-common-structure", what, path=pair.prediction, do=do)
    return scores


def _regions_known(prediction: Side, reference: Side) -> tuple[ScoredStructure, ...]:
    """The structures that files themselves state: by names beside them or of segments, or else all values."""
    sides = (reference, prediction)
    if named := next((side.names or side.segments for side in sides if side.names or side.segments), ()):
        for side in sides:
            if not (side.names or side.segments) and any(other.segments for other in sides):
                what = "has values without names, which cannot be matched to the segments of the other side"
                raise StudyError(
                    "no-names", what, path=side.path, do="name them with a label table (--labels)"
                )
        return named
    return regions_of_values(prediction.values | reference.values)


def _nameless(side: Side, regions: Regions) -> set[int]:
    """The values of a label map that neither its own names nor `regions` include."""
    named = [*side.segments, *side.names, *(region for region in regions if region)]
    return side.values - {value for region in named for value in region.values}


def _check_named(prediction: Side, ours: Regions, reference: Side, theirs: Regions) -> None:
    """Refuse a structure that is on one side alone where it may be a value without a name on the other.

    Its score would be 0, as if it had been missed.
    """
    sides = ((prediction, ours), (reference, theirs))
    for (side, own), (other, others) in (sides, sides[::-1]):
        if not (nameless := _nameless(side, own)):
            continue
        for region, counterpart in zip(own, others, strict=True):
            if region is None or counterpart is None or side.values & {*region.values}:
                continue
            if other.values & {*counterpart.values}:
                shown = ", ".join(map(str, sorted(nameless)[:5]))
                what = f"has no {region.name}, but values without a name ({shown})"
                do = "name its values by --labels, or in a .json beside it"
                raise StudyError("unnamed-values", what, path=side.path, do=do)


def _without(ignore: int, prediction: Side, reference: Side) -> tuple[Side, Side]:
    """Both sides with background in the unlabelled voxels of the reference."""
    ignored = reference.label_map == ignore
    sides = (replace(s, label_map=np.where(ignored, 0, s.label_map)) for s in (prediction, reference))
    ours, theirs = sides
    if ours.probabilities is not None:
        ours = replace(ours, probabilities=np.where(ignored, 0, ours.probabilities))
    return ours, theirs


def _unnamed(prediction: Side, ours: Regions, reference: Side, theirs: Regions) -> str:
    """A note on values that have no name; those of a segmentation all have one."""
    values = _nameless(prediction, ours) | _nameless(reference, theirs)
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


def _reliability(probabilities: np.ndarray, region: ScoredStructure, reference: np.ndarray) -> Reliability:
    # Selected by probability alone; selecting by the reference would make every low probability look wrong.
    channels = [value for value in region.values if value < len(probabilities)]
    p = probabilities[channels].sum(axis=0).clip(0, 1)
    asked = p >= LEAST_PROBABILITY
    return reliability(p[asked], reference[asked])


def _measure(prediction: np.ndarray, reference: np.ndarray, grid: Grid, options: Options) -> dict[str, float]:
    # Growing lesions needs space around them; all else lies in the box that holds both.
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
