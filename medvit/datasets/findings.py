"""What a check of a data set found: problems, each one line, and a summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medvit.datasets.volumes import VolumeHeader
from medvit.studies.manifests.model import Manifest

SHOWN = 20  # number of problems of one kind that are printed; JSON has them all


@dataclass(frozen=True)
class Problem:
    """Something that is missing, wrong or different from the manifest.

    Parameters
    ----------
    kind
        Stable, machine-readable name such as ``"missing-file"``.
    what
        Finding in one clause.
    case
        The case; empty if the problem concerns the data set.
    path
        The file, below the folder.
    """

    kind: str
    what: str
    case: str = ""
    path: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.kind, self.case, self.path, self.what)))


@dataclass
class Findings:
    """The result of a check.

    Parameters
    ----------
    manifest, folder
        Manifest, and folder that was checked against it.
    labelled, unlabelled
        Number of cases found with and without a label map (or target).
    problems
        Problems in the order in which they were found.
    notes
        Sentences on what was not checked.
    shapes, spacings
        Shapes and spacings of the images, as summarised by `shape_range` and `spacing_range`.
    volumes
        Volume in ml of each structure, by name, in each case where it occurs.
    label_maps
        Number of label maps that were read.
    """

    manifest: Manifest
    folder: Path
    labelled: int = 0
    unlabelled: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    spacings: set[tuple[float, ...]] = field(default_factory=set)
    volumes: dict[str, list[float]] = field(default_factory=dict)
    label_maps: int = 0

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def add(self, kind: str, what: str, case: str = "", path: Path | None = None) -> None:
        """Note a problem."""
        below = "" if path is None else str(path)
        if path is not None and path.is_relative_to(self.folder):
            below = path.relative_to(self.folder).as_posix()
        self.problems.append(Problem(kind, what, case, below))

    def add_image(self, volume: VolumeHeader) -> None:
        """Note the size and the spacing of an image."""
        self.shapes.add(volume.grid.shape)
        self.spacings.add(tuple(round(step, 4) for step in volume.grid.spacing))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "manifest": self.manifest.name,
            "folder": str(self.folder),
            "ok": self.ok,
            "labelled": self.labelled,
            "unlabelled": self.unlabelled,
            "shape": _range(self.shapes),
            "spacing": _range(self.spacings),
            "structures": {
                name: {"cases": len(ml), "median_ml": float(np.median(ml)) if ml else None}
                for name, ml in self.volumes.items()
            },
            "problems": [asdict(problem) for problem in self.problems],
            "notes": self.notes,
        }

    def __str__(self) -> str:
        return "\n".join((*self._problem_lines(), *self._summary_lines()))

    def _problem_lines(self) -> Iterator[str]:
        shown: Counter[str] = Counter()
        for problem in self.problems:
            shown[problem.kind] += 1
            if shown[problem.kind] <= SHOWN:
                yield str(problem)
        for kind, count in shown.items():
            if count > SHOWN:
                yield f"{kind}: and {count - SHOWN} more; --json lists them all"

    def _summary_lines(self) -> Iterator[str]:
        aim = "a label map" if self.manifest.labels else "a target"
        cases = f"{self.labelled} with {aim}, {self.unlabelled} without"
        rows = [("data set", self.manifest.title or self.manifest.name), ("cases", cases)]
        rows += [("channels", ", ".join(self.manifest.channels))]
        for name, found in (("voxels", self.shapes), ("spacing, mm", self.spacings)):
            if bounds := _range(found):
                rows.append((name, _between(*bounds)))
        kinds = Counter(problem.kind for problem in self.problems)
        rows += [("problems", ", ".join(f"{kind} {n}" for kind, n in kinds.items()) or "none")]
        yield ""
        yield from (f"{name:12} {value}" for name, value in rows)
        if self.volumes:
            width = max(len("structure"), *map(len, self.volumes))
            yield f"\n{'structure':{width}}  value  cases  median ml"
            for value, (name, ml) in zip(self.manifest.values, self.volumes.items(), strict=True):
                median = f"{np.median(ml):9.2f}" if ml else f"{'-':>9}"
                yield f"{name:{width}}  {value:5}  {len(ml):5}  {median}"
        yield from (f"note: {note}" for note in self.notes)


def outside(value: Sequence[float], bounds: tuple[Sequence[float], Sequence[float]]) -> bool:
    """Whether any component lies below the least or above the largest by more than rounding."""
    low, high = bounds
    return any(
        (v < a and not math.isclose(v, a, rel_tol=0.01)) or (v > b and not math.isclose(v, b, rel_tol=0.01))
        for v, a, b in zip(value, low, high, strict=True)
    )


def times(numbers: Sequence[float]) -> str:
    """Text such as ``"240 x 240 x 155"``."""
    return " x ".join(f"{number:.4g}" for number in numbers)


def _range(found: set[Any]) -> tuple[list[float], list[float]] | None:
    if not found:
        return None
    values = np.array(sorted(found))
    return values.min(0).tolist(), values.max(0).tolist()


def _between(low: Sequence[float], high: Sequence[float]) -> str:
    return times(low) if low == high else f"{times(low)} to {times(high)}"


def structures_of(manifest: Manifest) -> Mapping[str, int]:
    """Value of each structure in the files, by name."""
    return {s.name: value for s, value in zip(manifest.labels or (), manifest.values, strict=True)}
