"""Results of one bundle on the bench, and the figures that tables and plots show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from medvit.evaluation.measure import StudyScores
from medvit.evaluation.summary import ALL, Agreement, Summary, agreements, summarise

MANUAL = "manual labels"


@dataclass(frozen=True)
class Row:
    """One bundle of the bench.

    Parameters
    ----------
    name, version, weights_sha256
        Name, version and weights of the bundle.
    weights_mb
        Size of the weights file in 10^6 bytes.
    postprocessing
        Digest of the post-processing in the configuration.
    scores
        Scores by group of studies.
    costs
        Costs as `medvit.bench.work` records them; ``None`` if the timed study failed.
    failures
        Reason why a study has no scores, by its id.
    red
        First finding of a study with scores whose light is red, by its id.
    error
        Reason why there are no results at all; empty otherwise.
    """

    name: str
    version: str = ""
    weights_sha256: str = ""
    weights_mb: float = math.nan
    postprocessing: str = ""
    scores: dict[str, list[StudyScores]] = field(default_factory=dict)
    costs: dict[str, Any] | None = None
    failures: dict[str, str] = field(default_factory=dict)
    red: dict[str, str] = field(default_factory=dict)
    error: str = ""

    @cached_property
    def summaries(self) -> dict[str, list[Summary]]:
        """Means and intervals over studies, by group."""
        return {group: summarise(scores) for group, scores in self.scores.items()}

    def mean(self, group: str, metric: str) -> Summary | None:
        """A metric over all structures of a group; `None` if the bundle has no scores there."""
        found = (s for s in self.summaries.get(group, ()) if (s.structure, s.metric) == (ALL, metric))
        return next(found, None)

    def by_structure(self, group: str, metric: str) -> dict[str, float]:
        """Means of a metric by structure, of left and right together."""
        sides: dict[str, list[float]] = {}
        for s in self.summaries.get(group, ()):
            if s.metric == metric and s.structure != ALL:
                sides.setdefault(s.structure.removeprefix("left ").removeprefix("right "), []).append(s.mean)
        return {name: float(np.mean(values)) for name, values in sides.items()}

    def agreements(self, group: str) -> dict[str, Agreement]:
        """Agreement of each structure's volumes with the reference over the studies of a group."""
        return {a.structure: a for a in agreements(self.scores.get(group, ()))}

    def volume_bias(self, group: str) -> dict[str, float]:
        """Mean of the signed volume error of each structure over the studies of a group, in percent."""
        return self.by_structure(group, "volume_error_percent")

    def by_study(self, group: str, metric: str) -> dict[str, float]:
        """Means of a metric over the structures of each study in which it is finite."""
        known = {
            scores.study: [v[metric] for v in scores.values.values() if math.isfinite(v[metric])]
            for scores in self.scores.get(group, ())
        }
        return {study: float(np.mean(values)) for study, values in known.items() if values}

    def cost(self, name: str) -> float | None:
        """A figure of the costs; `None` if it is unknown."""
        return self.costs.get(name) if self.costs else None


def groups_of(rows: Sequence[Row]) -> list[str]:
    """Groups of studies that any bundle has scores in, in order, manual labels first."""
    groups = dict.fromkeys(group for row in rows for group in row.scores)
    return sorted(groups, key=lambda group: group != MANUAL)


def structures_of(rows: Sequence[Row], group: str) -> list[str]:
    """Structures of a group, left and right together, in order."""
    return list(dict.fromkeys(name for row in rows for name in row.by_structure(group, "dice")))
