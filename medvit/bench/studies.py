"""Inputs of the bench: studies, and the references with which their label maps are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvit.errors import StudyError
from medvit.evaluation.measure import Options, StudyScores, measure_pair
from medvit.evaluation.pairing import Pair
from medvit.evaluation.structures import ScoredStructure
from medvit.studies import Study
from medvit.studies.formats import read_header, series_at
from medvit.studies.grids import describe, same_voxels
from medvit.studies.labels import LabelTable


@dataclass(frozen=True)
class Reference:
    """A label map to compare with.

    Parameters
    ----------
    group
        Heading under which its scores are summarised.
    path
        The label map, on the grid of the study.
    found, drawn
        The structures by their values in a predicted label map, and the same ones in the reference.
    """

    group: str
    path: Path
    found: tuple[ScoredStructure, ...]
    drawn: tuple[ScoredStructure, ...]


@dataclass(frozen=True)
class BenchStudy:
    """A study on which every bundle is run.

    Parameters
    ----------
    id
        Id that is safe as a folder name.
    image
        Path of its file.
    references
        References to compare its label map with.
    """

    id: str
    image: Path
    references: tuple[Reference, ...]


def unsided_region(table: LabelTable, *names: str) -> ScoredStructure:
    """Structures of both sides as one, under the first of `names`."""
    return ScoredStructure(names[0], tuple(s.value for s in table if s.unsided_name in names))


def check_references(study: Study, references: Iterable[Reference]) -> None:
    """Refuse references on another grid than the image of a study; only headers are read.

    Raises
    ------
    StudyError
        If the voxels differ, or a header cannot be read.
    """
    own = read_header(study.series[0]).grid
    for reference in references:
        other = read_header(series_at(reference.path)).grid
        if not same_voxels(own, other):
            described = (
                describe(other) if describe(other) != describe(own) else "of equal size, but elsewhere"
            )
            what = f"lies on another grid ({described}) than {study.path.name} ({describe(own)})"
            do = "bring it onto the grid of the image by nearest neighbour"
            raise StudyError("other-grid", what, path=reference.path, do=do)


def compare(study: str, label_map: Path, references: Iterable[Reference]) -> dict[str, StudyScores]:
    """The scores of one predicted label map, by group.

    Where several references of a group have a structure, its scores are the means over them.

    Raises
    ------
    StudyError
        If a label map cannot be read, or is on another grid than its reference.
    """
    measured: dict[str, list[StudyScores]] = {}
    for reference in references:
        pair = Pair(study, label_map, reference.path)
        scores = measure_pair(pair, reference.found, Options(), drawn=reference.drawn)
        measured.setdefault(reference.group, []).append(scores)
    return {group: _mean_scores(study, several) for group, several in measured.items()}


def _mean_scores(study: str, several: Sequence[StudyScores]) -> StudyScores:
    merged = StudyScores(study)
    for name in dict.fromkeys(name for scores in several for name in scores.values):
        those = [scores for scores in several if name in scores.values]
        merged.presence[name] = those[0].presence[name]
        values = {m: [s.values[name][m] for s in those] for m in those[0].values[name]}
        # The bench uses the absolute volume error, in which too large and too small do not cancel.
        values["volume_off_percent"] = [abs(v) for v in values["volume_error_percent"]]
        merged.values[name] = {m: float(np.mean(v)) for m, v in values.items()}
    return merged
