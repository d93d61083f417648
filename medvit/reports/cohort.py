"""The page of a cohort: a sortable table, distributions, outliers and failures, and the same as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medvit.reports.dates import parse_date
from medvit.reports.html import templates
from medvit.reports.language import Language, load_language
from medvit.reports.quality import Verdict
from medvit.reports.tables import csv_text, long_rows, wide_row
from medvit.studies.files import atomic_path

BINS = 24
# Beyond this many robust standard deviations a value is listed as an outlier.
OUTLIER = 3.0
# With fewer studies neither median nor spread is meaningful.
ENOUGH = 8


@dataclass(frozen=True)
class CohortRow:
    """One study of a cohort.

    Parameters
    ----------
    study
        Identifier of the study.
    content
        Content of its `measurements.json`; `None` if it failed, or nothing was measured.
    cause
        Cause of its failure, in a sentence; empty if it is done.
    report
        Link to its report, relative to the cohort's page.
    missing
        Requested outputs that were not written, and why.
    """

    study: str
    content: Mapping[str, Any] | None = field(default=None, repr=False)
    cause: str = ""
    report: str = ""
    missing: str = ""

    @property
    def volumes(self) -> dict[str, float]:
        """Volume in ml of each structure that was found, and of the whole."""
        if self.content is None:
            return {}
        whole = self.content["whole"]
        found = {s["name"]: s["volume_ml"] for s in self.content["structures"] if s["present"]}
        return {whole["name"]: whole["volume_ml"]} | found


@dataclass(frozen=True)
class Distribution:
    """Volumes of one structure over a cohort.

    Parameters
    ----------
    name
        Name of the structure.
    values
        (studies,) volumes in ml, ``nan`` where it was not found.
    plausible_ml
        Published range.
    """

    name: str
    values: np.ndarray
    plausible_ml: tuple[float, float] | None

    @property
    def known(self) -> np.ndarray:
        """Volumes where it was found."""
        return self.values[np.isfinite(self.values)]

    @property
    def median(self) -> float:
        """Median volume in ml."""
        return float(np.median(self.known)) if self.known.size else float("nan")

    def deviations(self) -> np.ndarray:
        """(studies,) distance from the median in robust standard deviations; 0 if these are unknown."""
        spread = 1.4826 * float(np.median(np.abs(self.known - self.median))) if self.known.size else 0.0
        if self.known.size < ENOUGH or spread == 0.0:
            return np.zeros(len(self.values))
        return np.nan_to_num((self.values - self.median) / spread)

    def histogram(self) -> tuple[list[float], float, float]:
        """Heights of `BINS` bars, 0 to 1, and the volumes in ml where the first begins and the last ends."""
        if not self.known.size:
            return [0.0] * BINS, 0.0, 1.0
        low, high = float(self.known.min()), float(self.known.max())
        if high <= low:
            low, high = 0.9 * low, 1.1 * high + 1e-6
        counts, _ = np.histogram(self.known, BINS, (low, high))
        return (counts / counts.max()).tolist(), low, high


def cohort_page(
    rows: Sequence[CohortRow], path: Path | str, *, language: str = "en", title: str = ""
) -> Path:
    """Write the page of a cohort as one self-contained HTML file.

    Parameters
    ----------
    rows
        The studies, done or failed.
    path
        The file; it appears whole or not at all.
    language
        Same as in `write_html`.
    title
        Title of the cohort.

    Raises
    ------
    MedvitError
        If the language is unknown.
    """
    words = load_language(language)
    done = [row for row in rows if row.content is not None]
    distributions = _distributions(done)
    page = (
        templates()
        .get_template("cohort.html.j2")
        .render(
            words=words,
            title=title or words["cohort"],
            columns=[translate(d.name, words) for d in distributions],
            rows=[_cells(row, distributions, i, words) for i, row in enumerate(done)],
            distributions=[_bars(d, words) for d in distributions],
            outliers=_outliers(done, distributions, words),
            failures=[row for row in rows if row.cause],
            done=len(done),
        )
    )
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return Path(path)


def write_cohort_csv(rows: Iterable[CohortRow], path: Path | str, *, long: bool = False) -> Path:
    """Write `cohort.csv`: a line for each study, or in long form for each structure of each study.

    Failed studies have a line as well, with the cause.
    """
    lines: list[dict[str, Any]] = []
    for row in rows:
        verdict = Verdict.of(row.content) if row.content else None
        head = {
            "study": row.study, "status": "failed" if row.cause else "done",
            "light": verdict.light if verdict else "", "finding": verdict.finding if verdict else "",
            "cause": row.cause, "missing": row.missing,
        }  # fmt: skip
        content = [{}] if row.content is None else long_rows(row.content) if long else [wide_row(row.content)]
        stated = {*head, "quality"}
        lines += [head | {k: v for k, v in line.items() if k not in stated} for line in content]
    with atomic_path(path) as partial:
        partial.write_text(csv_text(lines), encoding="utf-8")
    return Path(path)


def translate(name: str, words: Language) -> str:
    """The name of a structure in `measurements.json`, in another language."""
    side = next((s for s in ("left", "right") if name.startswith(f"{s} ")), "")
    unsided = name.removeprefix(f"{side} ") if side else name
    if unsided not in words.structures:
        return name
    return f"{words.structures[unsided]} ({words[side]})" if side else words.structures[unsided]


def _distributions(done: Sequence[CohortRow]) -> list[Distribution]:
    """One for the whole and one for each structure that any study knows, in the order of the first study."""
    volumes = [row.volumes for row in done]
    ranges: dict[str, tuple[float, float] | None] = {}
    for row in done:
        content = row.content or {}
        ranges.setdefault(content["whole"]["name"], None)
        for s in content["structures"]:
            ranges.setdefault(s["name"], s["plausible_ml"])
    return [
        Distribution(name, np.array([v.get(name, np.nan) for v in volumes], float), plausible)
        for name, plausible in ranges.items()
    ]


def _cells(row: CohortRow, distributions: Sequence[Distribution], i: int, words: Language) -> dict[str, Any]:
    content = row.content or {}
    flags = content["quality"]["flags"]
    return {
        "study": row.study,
        "report": row.report,
        "date": content["study"]["date"] or "",
        "date_text": words.date(parse_date(content["study"]["date"])),
        "light": content["quality"]["light"],
        "flags": "; ".join(flag["seen"] for flag in flags),
        "volumes": [
            ("" if np.isnan(d.values[i]) else f"{d.values[i]:.7g}", words.ml(float(d.values[i])))
            for d in distributions
        ],
    }


def _bars(distribution: Distribution, words: Language) -> dict[str, Any]:
    """A histogram in a drawing 240 wide and 60 high, the published range as a band behind it."""
    heights, low, high = distribution.histogram()
    band = None
    if distribution.plausible_ml is not None:
        at = [240 * (v - low) / (high - low) for v in distribution.plausible_ml]
        start, end = (min(max(x, 0.0), 240.0) for x in at)
        band = (round(start, 1), round(end - start, 1))
    return {
        "name": translate(distribution.name, words),
        "bars": [(10 * i, round(60 - 58 * h, 1), round(58 * h, 1)) for i, h in enumerate(heights) if h],
        "band": band,
        "low": words.ml(low),
        "high": words.ml(high),
        "median": words.ml(distribution.median),
        "count": int(distribution.known.size),
    }


def _outliers(
    done: Sequence[CohortRow], distributions: Sequence[Distribution], words: Language
) -> list[dict[str, str]]:
    """Values far from the cohort's median, farthest first."""

    def found() -> Iterator[tuple[float, CohortRow, Distribution, float]]:
        for distribution in distributions:
            deviations = distribution.deviations()
            for i in map(int, np.flatnonzero(np.abs(deviations) > OUTLIER)):
                yield float(deviations[i]), done[i], distribution, float(distribution.values[i])

    ranked = sorted(found(), key=lambda entry: -abs(entry[0]))
    return [
        {
            "study": row.study,
            "report": row.report,
            "name": translate(distribution.name, words),
            "value": words.ml(value),
            "median": words.ml(distribution.median),
            "deviations": words.number(deviation, 1, sign=True),
        }
        for deviation, row, distribution, value in ranked[:200]
    ]
