"""The page of an evaluation: tables and drawings as one self-contained HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, PackageLoader

from medvit.evaluation.measure import Options, StudyScores
from medvit.evaluation.summary import ALL, Agreement, Summary, agreements, names_of, pooled_reliability
from medvit.metrics import Reliability
from medvit.reports.html import templates
from medvit.reports.language import load_language
from medvit.studies.files import atomic_path
from medvit.studies.found import LeftOut, Refused

# Title, unit and decimals of the metrics on the page; all others are in the CSV and JSON files.
SHOWN = {
    "dice": ("Dice", "", 3),
    "surface_dice": ("Surface Dice", "", 3),
    "hd95_mm": ("HD95", "mm", 2),
    "assd_mm": ("ASSD", "mm", 2),
    "volume_error_ml": ("Volume error", "ml", 2),
    "centreline_dice": ("Centre-line Dice", "", 3),
    "lesion_dice": ("Lesion-wise Dice", "", 3),
    "lesion_hd95_mm": ("Lesion-wise HD95", "mm", 1),
    "lesion_f1": ("Lesion F1", "", 3),
    "ece": ("Calibration error", "", 3),
    "psnr_db": ("PSNR", "dB", 2),
    "ssim": ("SSIM", "", 4),
    "foreground_psnr_db": ("PSNR of the foreground", "dB", 2),
    "foreground_ssim": ("SSIM of the foreground", "", 4),
    "rmse": ("RMSE", "", 2),
    "nrmse": ("NRMSE", "", 4),
    "hfen": ("HFEN", "", 3),
    "bias": ("Bias", "", 2),
    "bias_p95": ("95 % of biases below", "", 2),
}
DRAWN = ("dice", "surface_dice", "hd95_mm", "psnr_db", "ssim")
UNBOUNDED = ("hd95_mm", "psnr_db", "foreground_psnr_db")
DOTS = 200  # a structure; beyond, quantiles stand for the studies
WORST = 20


def write_page(
    path: Path,
    scores: Sequence[StudyScores],
    summaries: Sequence[Summary],
    refused: Sequence[Refused],
    left_out: Sequence[LeftOut],
    options: Options,
) -> None:
    """Write the page; it appears whole or not at all."""
    loader = ChoiceLoader([PackageLoader("medvit.evaluation"), PackageLoader("medvit.reports")])
    metrics = [m for m in SHOWN if any(s.metric == m for s in summaries)]
    page = (
        templates()
        .overlay(loader=loader)
        .get_template("evaluation.html.j2")
        .render(
            words=load_language("en"),
            options=options,
            studies=len(scores),
            columns=[_title(m) for m in metrics],
            rows=_rows(summaries, metrics),
            drawings=[_drawing(m, scores, summaries) for m in metrics if m in DRAWN],
            agreements=[_bland_altman(a) for a in agreements(scores)],
            reliability=[_reliability(n, r) for n, r in pooled_reliability(scores).items()],
            worst=_worst(scores),
            notes=[(s.study, note) for s in scores for note in s.notes],
            refused=refused,
            left_out=left_out,
        )
    )
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _title(metric: str) -> str:
    title, unit, _ = SHOWN[metric]
    return f"{title}, {unit}" if unit else title


def _text(value: float, digits: int) -> str:
    return "∞" if math.isinf(value) else load_language("en").number(value, digits)


def _rows(summaries: Sequence[Summary], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each structure, a cell for each metric."""
    found = {(s.structure, s.metric): s for s in summaries}
    return [
        {
            "name": name,
            "studies": max(found[name, m].studies for m in metrics),
            "one_sided": found[name, "hd95_mm"].one_sided if "hd95_mm" in metrics else 0,
            "cells": [
                {
                    "mean": _text(s.mean, digits),
                    "interval": f"{_text(s.low, digits)} to {_text(s.high, digits)}"
                    if math.isfinite(s.low)
                    else "",
                }
                for s, digits in ((found[name, m], SHOWN[m][2]) for m in metrics)
            ],
        }
        for name in names_of(summaries)
    ]


def _drawing(metric: str, scores: Sequence[StudyScores], summaries: Sequence[Summary]) -> dict[str, Any]:
    """A line for each structure: a dot for each study, the mean, and its interval; 0 to 400 wide."""
    lines = [s for s in summaries if s.metric == metric and s.structure != ALL and s.studies]
    values = {
        s.structure: np.sort([v for one in scores if (v := _value(one, s.structure, metric)) is not None])
        for s in lines
    }
    largest = 1.0 if metric not in UNBOUNDED else max((float(v[-1]) for v in values.values()), default=0.0)
    ticks = _ticks(largest or 1.0)
    top = ticks[-1]

    def at(value: float) -> float:
        return round(400 * value / top, 1)

    def dots(known: np.ndarray) -> list[tuple[float, float]]:
        shown = np.quantile(known, np.linspace(0, 1, DOTS)) if known.size > DOTS else known
        # Spread across the line by the golden ratio, so that equal values show as several.
        return [(at(float(v)), round(8 * (0.618034 * i % 1) - 4, 1)) for i, v in enumerate(shown)]

    return {
        "title": _title(metric),
        "ticks": [(at(v), f"{v:g}") for v in ticks],
        "lines": [
            {
                "name": s.structure,
                "dots": dots(values[s.structure]),
                "mean": at(s.mean),
                "interval": (at(s.low), at(s.high)) if math.isfinite(s.low) else None,
                "says": f"{s.structure}: mean {_text(s.mean, SHOWN[metric][2])} of {s.studies}",
            }
            for s in lines
        ],
    }


def _ticks(largest: float) -> list[float]:
    """Four to ten round numbers from 0 to `largest` or a little beyond."""
    power = 10 ** math.floor(math.log10(largest / 4))
    step = next(power * n for n in (5, 2, 1) if power * n <= largest / 4)
    return [round(step * i, 10) for i in range(math.ceil(largest / step - 1e-9) + 1)]


def _value(scores: StudyScores, structure: str, metric: str) -> float | None:
    value = scores.values.get(structure, {}).get(metric, math.nan)
    return value if math.isfinite(value) else None


def _bland_altman(agreement: Agreement) -> dict[str, Any]:
    """Differences over means in a drawing 240 wide and 140 high, zero always visible."""
    means, differences = agreement.mean_ml, agreement.difference_ml
    limits = [v for v in (agreement.low, agreement.high) if math.isfinite(v)]
    reach = 1.1 * max(float(np.abs(differences).max()), *map(abs, limits), 1e-6)
    left, right = float(means.min()), float(means.max())
    if right <= left:
        left, right = 0.9 * left, 1.1 * right

    def down(value: float) -> float:
        return round(70 - 70 * value / reach, 1)

    across = [round(8 + 224 * (float(m) - left) / (right - left), 1) for m in means]
    return {
        "name": agreement.structure,
        "dots": [(x, down(float(d))) for x, d in zip(across, differences, strict=True)][: 10 * DOTS],
        "bias": down(agreement.bias),
        "limits": [down(v) for v in limits],
        "says": f"bias {_text(agreement.bias, 2)} ml, limits {_text(agreement.low, 2)} to "
        f"{_text(agreement.high, 2)} ml, {len(means)} studies",
        "range": f"{_text(left, 2)} to {_text(right, 2)} ml across, ± {_text(reach, 2)} ml up and down",
    }


def _reliability(structure: str, found: Reliability) -> dict[str, Any]:
    """Accuracy over confidence in a drawing 140 wide and high; the larger a dot, the more voxels."""
    known = found.count > 0
    sizes = 1.5 + 4 * np.sqrt(found.count[known] / max(int(found.count.max()), 1))
    return {
        "name": structure,
        "dots": [
            (round(140 * float(c), 1), round(140 - 140 * float(a), 1), round(float(size), 1))
            for c, a, size in zip(found.confidence[known], found.accuracy[known], sizes, strict=True)
        ],
        "says": f"calibration error {_text(found.ece, 3)}, {_text(found.mce, 3)} in the worst bin, "
        f"{_text(float(found.count.sum()), 0)} voxels",
    }


def _worst(scores: Sequence[StudyScores]) -> list[dict[str, str]]:
    """The structures with the lowest Dice, and of equal ones the farthest off in volume."""
    measured = [(s, name, v) for s in scores for name, v in s.values.items()]
    # Where Dice alone was measured, as in a cross-validation, the table would be half empty.
    full = [entry for entry in measured if "hd95_mm" in entry[2]]
    everything = [entry for entry in full if math.isfinite(entry[2].get("dice", math.nan))]
    everything.sort(key=lambda entry: (entry[2]["dice"], -abs(entry[2]["volume_error_ml"])))
    return [
        {
            "study": s.study,
            "structure": name,
            "dice": _text(values["dice"], 3),
            "hd95": _text(values["hd95_mm"], 2),
            "error": _text(values["volume_error_ml"], 2),
            "presence": {"both": "", "prediction": "only in the prediction"}.get(
                s.presence[name], "only in the reference"
            ),
        }
        for s, name, values in everything[:WORST]
    ]
