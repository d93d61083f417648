"""The figures of the bench as CSV, one line per bundle, and as JSON, with every structure and study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvit.bench.row import MANUAL, Row, groups_of
from medvit.evaluation.summary import LEVEL, RESAMPLES
from medvit.reports.tables import csv_text
from medvit.studies.files import atomic_path
from medvit.studies.files import write_json as write_plain

SCHEMA_VERSION = "1.0"
METRICS = ("dice", "surface_dice", "hd95_mm", "volume_off_percent")
COSTS = (
    "seconds",
    "cpu_seconds",
    "infer_seconds",
    "peak_mb",
    "peak_gpu_mb",
    "parameters",
    "window_gflops",
    "study_gflops",
)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line per bundle; unknown values are empty."""
    lines = [_line(row, groups_of(rows)) for row in rows]
    with atomic_path(path) as partial:
        partial.write_text(csv_text(lines), encoding="utf-8")


def write_json(path: Path, rows: Sequence[Row], date: str) -> None:
    """Every figure of every bundle, by structure and by study; what is undefined or infinite is null."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "date": date or None,
        "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "unit": "study"},
        "bundles": [_entry(row) for row in rows],
    }
    write_plain(path, content)


def _entry(row: Row) -> dict[str, Any]:
    return {
        "bundle": row.name,
        "version": row.version,
        "weights_sha256": row.weights_sha256,
        "weights_mb": _rounded(row.weights_mb),
        "error": row.error,
        "failures": row.failures,
        "red": row.red,
        "costs": {name: value for name, value in (row.costs or {}).items() if name != "key"},
        "structures": {group: _by_structure(row, group) for group in row.scores},
        "volumes": {group: _volumes(row, group) for group in row.scores if group == MANUAL},
        "studies": {group: row.by_study(group, "dice") for group in row.scores},
    }


def _by_structure(row: Row, group: str) -> dict[str, Any]:
    """For each structure and metric, the mean over studies and the bounds of its interval."""
    found: dict[str, Any] = {}
    for s in row.summaries[group]:
        if s.metric in METRICS:
            figures = [_rounded(v) for v in (s.mean, s.low, s.high)]
            found.setdefault(s.structure, {})[s.metric] = figures
    return found


def _volumes(row: Row, group: str) -> dict[str, Any]:
    """For each structure, the mean error in percent, and the bias in ml with its limits of agreement."""
    bias = row.volume_bias(group)
    return {
        name: {
            "bias_percent": _rounded(bias.get(name)),
            "bias_ml": _rounded(a.bias),
            "limits_ml": [_rounded(a.low), _rounded(a.high)],
            "correlation": _rounded(a.correlation),
        }
        for name, a in row.agreements(group).items()
    }


def _line(row: Row, groups: Sequence[str]) -> dict[str, Any]:
    line: dict[str, Any] = {"bundle": row.name, "version": row.version, "error": row.error}
    for group in groups:
        for metric in METRICS:
            mean = row.mean(group, metric)
            for suffix, value in (("", "mean"), (" low", "low"), (" high", "high")):
                line[f"{group}: {metric}{suffix}"] = _rounded(getattr(mean, value)) if mean else None
    line |= {name: _rounded(row.cost(name)) for name in COSTS}
    return line | {"weights_mb": _rounded(row.weights_mb), "weights_sha256": row.weights_sha256}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
