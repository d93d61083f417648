"""The pictures of the bench: quality against time, Dice of each structure, and agreement of volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medvit.bench.row import MANUAL, Row, groups_of, structures_of
from medvit.studies.files import atomic_path

# Okabe and Ito's colours differ for every eye; the markers differ in a grey print too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DPI = 130
_AREA = 40.0  # points^2 for a million parameters
_LEAST_SPAN = 0.1  # range of Dice, so that small differences look small
_WIDE = 6  # ratio of slowest to fastest from which seconds are drawn on a logarithmic axis


def draw_quality_over_time(path: Path, rows: Sequence[Row]) -> bool:
    """Mean Dice against time, one panel per group of studies; bubble areas are proportional to parameters.

    On a CPU, time is CPU seconds, which other work on the machine does not change.

    Returns
    -------
    bool
        Whether there was anything to draw.
    """
    on_gpu = any(row.cost("peak_gpu_mb") for row in rows)
    clock, title = ("seconds", "seconds per study") if on_gpu else ("cpu_seconds", "CPU seconds per study")
    timed = [row for row in rows if row.cost(clock) and row.scores]
    if not timed:
        return False
    groups = groups_of(timed)
    figure = Figure(figsize=(max(5.0, 1 + 3 * len(groups)), 4), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    seconds = [row.cost(clock) or math.nan for row in timed]
    for panel, group in zip(panels, groups, strict=True):
        for row in timed:
            _bubble(panel, row, group, row.cost(clock), _style(rows, row))
        _time_axis(panel, seconds)
        panel.set_xlabel(title)
        panel.set_title(group, fontsize=10)
        panel.margins(y=0.2)
        low, high = panel.get_ylim()
        spare = max(0.0, _LEAST_SPAN - (high - low)) / 2
        panel.set_ylim(low - spare, high + spare)
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
    panels[0].set_ylabel("mean Dice")
    _legend(figure, rows, timed, lambda row: f"{row.name}, {(row.cost('parameters') or 0) / 1e6:.1f} M")
    _save(figure, path)
    return True


def draw_structures(path: Path, rows: Sequence[Row]) -> bool:
    """Mean Dice per structure, left and right together: one dot per bundle, one panel per group.

    Returns
    -------
    bool
        Whether there was anything to draw.
    """
    scored = [row for row in rows if row.scores]
    if not scored:
        return False
    groups = groups_of(scored)
    names = {group: structures_of(scored, group) for group in groups}
    heights = [len(names[group]) + 1.0 for group in groups]
    figure = Figure(figsize=(7, 1.6 + 0.24 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, group in zip(panels, groups, strict=True):
        places = {name: -place for place, name in enumerate(names[group])}
        for row in scored:
            colour, marker = _style(rows, row)
            dice = row.by_structure(group, "dice")
            down = [places[name] for name in dice]
            panel.plot(list(dice.values()), down, marker, color=colour, alpha=0.85, markersize=6)
        panel.set_yticks(list(places.values()), list(places), fontsize=8)
        panel.set_ylim(min(places.values()) - 0.6, 0.6)
        panel.set_title(group, fontsize=10)
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
    panels[-1].set_xlabel("Dice")
    _legend(figure, rows, scored, lambda row: row.name)
    _save(figure, path)
    return True


def draw_agreement(path: Path, rows: Sequence[Row]) -> bool:
    """Volumes against manual labels after Bland and Altman, one panel per structure.

    Each dot is a study: its mean volume of both, and how much more was found than drawn. Solid lines are the
    mean difference, dashed ones its limits of agreement.

    Returns
    -------
    bool
        Whether there was anything to draw.
    """
    found = {row.name: row.agreements(MANUAL) for row in rows}
    shown = [row for row in rows if found[row.name]]
    if not shown:
        return False
    names = structures_of(shown, MANUAL)
    columns = min(4, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.6 * columns, 2.1 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for panel, name in zip(panels, names, strict=False):
        for row in shown:
            if (a := found[row.name].get(name)) is not None:
                colour, marker = _style(rows, row)
                panel.plot(a.mean_ml, a.difference_ml, marker, color=colour, alpha=0.8, markersize=4)
                for level, style in ((a.bias, "-"), (a.low, "--"), (a.high, "--")):
                    if math.isfinite(level):
                        panel.axhline(level, color=colour, linewidth=0.8, linestyle=style)
        panel.axhline(0, color="0.5", linewidth=0.6)
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
    for panel in figure.axes[len(names) :]:
        panel.set_visible(False)
    for panel in figure.axes[max(0, len(names) - columns) : len(names)]:
        panel.set_xlabel("mean of both volumes, ml", fontsize=8)
    figure.supylabel("found less drawn, ml", fontsize=9)
    _legend(figure, rows, shown, lambda row: row.name)
    _save(figure, path)
    return True


def _bubble(panel: Any, row: Row, group: str, seconds: float | None, style: tuple[str, str]) -> None:
    mean = row.mean(group, "dice")
    if mean is None:
        return
    colour, marker = style
    if math.isfinite(mean.low):
        panel.plot([seconds, seconds], [mean.low, mean.high], color=colour, linewidth=1)
    area = _AREA * (row.cost("parameters") or 0) / 1e6
    panel.scatter([seconds], [mean.mean], s=area, marker=marker, color=colour, alpha=0.6, edgecolors="black")


def _time_axis(panel: Any, seconds: Sequence[float]) -> None:
    if max(seconds) > _WIDE * min(seconds):
        panel.set_xscale("log")
        panel.set_xlim(min(seconds) / 2, max(seconds) * 2)
    else:
        panel.set_xlim(0, 1.3 * max(seconds))


def _style(rows: Sequence[Row], row: Row) -> tuple[str, str]:
    number = list(rows).index(row)
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]


def _legend(figure: Figure, rows: Sequence[Row], shown: Sequence[Row], says: Any) -> None:
    handles = []
    for row in shown:
        colour, marker = _style(rows, row)
        handles.append(Line2D([], [], linestyle="", color=colour, marker=marker, label=says(row)))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(3, len(shown)), fontsize=8, frameon=False
    )


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as partial:
        # Without the version of matplotlib in it, equal pictures are equal files.
        figure.savefig(partial, format="png", dpi=_DPI, metadata={"Software": None})
