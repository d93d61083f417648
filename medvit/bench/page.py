"""The page of the bench, in Markdown: tables, pictures, and how everything was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from medvit.bench import icbm, own, synthetic
from medvit.bench.plots import draw_agreement, draw_quality_over_time, draw_structures
from medvit.bench.row import MANUAL, Row, groups_of, structures_of
from medvit.evaluation.summary import Agreement, Summary
from medvit.studies.files import atomic_path

_STUDIES = 20  # others are in bench.json only
_BUSY = 1.2  # ratio of wall to CPU time from which a process counts as delayed
_COLUMNS = {
    "dice": ("Dice", 3),
    "surface_dice": ("surface Dice at 1 mm", 3),
    "hd95_mm": ("HD95, mm", 2),
    "volume_off_percent": ("volume off, %", 1),
}
_ABOUT = {
    icbm.TISSUES: "The ICBM 2009a T1 template (average of 152 heads) against its own tissue maps, each"
    " voxel by its likeliest tissue.",
    icbm.DEEP: "The same against published atlases, left and right together; where two atlases have a"
    " structure, the mean over both.",
    synthetic.GROUP: "Heads that no bundle was trained on, imaged by synthesis in fixed contrasts and"
    " resolutions, against the label maps that they were made from. Every structure, left and right apart.",
    MANUAL: "Heads segmented by hand, given with `--manual`; left and right together. Raters follow"
    " another protocol than the one that the bundles learnt from: comparing a peer shows which part of a"
    " difference this may explain.",
    own.GROUP: "Labelled studies given with `--data`.",
}
_METHOD = """
## How it is measured
- Bundles are compared, not architectures: their weights differ in how long and from where they were trained,
  as each bundle's card says.
- Every bundle runs through its own inference configuration, from the image's file to the written label map on
  the image's grid. {postprocessing}
- Dice, surface Dice (tolerance 1 mm), HD95 (mm) and volume (mean absolute error in % of the reference) are
  those of `medvit evaluate`. Means are over the structures of a study, then over studies; in brackets the
  95 % bootstrap interval over studies, where there are two or more. A structure that was not found has Dice
  0 and no finite distance: it is in no mean of HD95, and is counted behind it ("missed").
- A reference on another grid than its image is refused before inference. A result with a red light (`medvit
  run`'s quality control) counts in every mean, is named with its finding, and ends the command with code 3;
  peers have no such control.
- Seconds: median of {rounds} rounds on `{study}` after one to warm up, the whole workflow except the loading
  of the network. CPU seconds are those of all threads together. Each bundle runs in its own process; peak
  memory is the total of this process, Python and libraries included.{busy}
- GFLOPs: 10^9 multiplications and additions, counted by `torch.utils.flop_counter` on the plain path of the
  network, in one window and in all windows of `{study}`. Convolutions, matrix products and attention are
  counted; norms, activations, interpolation and the recurrences of state-space layers are not.

## Run it yourself
`medvit bench brain -o OUT` needs only nilearn (`pip install 'medvit[demo]'`), which brings the
template and its tissue maps. More studies come with
- `--atlases FOLDER`: atlases in MNI space, `bigbrain.nii.gz` and `AllenAtlas.nii.gz`, each with the names of
  its labels in a `.json` beside it;
- `--label-maps FOLDER`: label maps with FreeSurfer's numbers and 1 mm voxels, such as those that SynthSeg was
  trained with; `--held-out PART` takes those whose names hold it (default: `seg_09` and `seg_14`, which no
  bundle has seen);
- `--manual FOLDER`: heads segmented by hand, as a manifest, or as images with label maps (`NAME.nii.gz`,
  `NAME_seg.nii.gz`). `--protocol` says what the values mean: `neuromorphometrics`, `freesurfer`, or a JSON
  file such as `{{"structures": {{"thalamus": [59, 60]}}, "background": [15]}}`; by default, the one that
  explains all values. `--manual-cases N` takes the first N;
- `--peer brainchop=FOLDER`: a published network beside the bundles (`model.json` and `model.pth` of
  brainchop's 18-class model), with its own preprocessing, cropped to what is not empty;
- `--data MANIFEST`: labelled studies of your own, or a folder of images with label maps (`NAME.nii.gz`,
  `NAME_seg.nii.gz`) in the values of the bundles or with a `.json` of names beside them.

`--bundle NAME` takes one bundle (or, with `--trust`, a folder). Studies and label maps stay in the work
folder. Work done there with the same weights, configuration and version of medvit is not repeated, so a
new bundle costs only its own time; remove the folder after a change of the code.
"""


def write_page(output_dir: Path, rows: Sequence[Row], date: str, command: str) -> None:
    """Write ``bench.md`` and ``images/bench_*.png``; `command` is what gives them again."""
    pictures = {
        "bench_time.png": (
            draw_quality_over_time,
            "Mean Dice against time; areas are proportional to parameters",
        ),
        "bench_structures.png": (draw_structures, "Dice of each structure"),
        "bench_agreement.png": (draw_agreement, "Volumes against manual labels, after Bland and Altman"),
    }
    shown = [
        f"![{says}](images/{name})"
        for name, (draw, says) in pictures.items()
        if draw(output_dir / "images" / name, rows)
    ]
    lines = [*_head(rows, date, command), *_overview(rows), "", *shown]
    for group in groups_of(rows):
        lines += _group(rows, group)
    lines += _failures(rows)
    lines += _red(rows)
    lines += _method(rows)
    lines += _weights(rows)
    with atomic_path(output_dir / "bench.md") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _head(rows: Sequence[Row], date: str, command: str) -> Iterator[str]:
    yield from ("# The brain bundles on one bench", "")
    yield (
        'Bundles that segment the structures of the label table "brain", on the same studies. Measured, not'
        " quoted; written by"
    )
    yield from ("```", *wrap(command, 100, subsequent_indent="    ", break_on_hyphens=False), "```")
    costs = next((row.costs for row in rows if row.costs), None)
    facts = [date] if date else []
    if costs:
        machine = costs["machine"]
        facts.append(str(machine["processor"]) + (f", {machine['gpu']}" if "gpu" in machine else ""))
        facts.append(f"{machine['threads']} thread{'s' if machine['threads'] != 1 else ''}")
        facts += [f"{name} {version}" for name, version in costs["software"].items()]
    yield (
        f"{', '.join(facts)}. All figures: [bench.csv](bench.csv), [bench.json](bench.json)." if facts else ""
    )
    yield ""


def _overview(rows: Sequence[Row]) -> Iterator[str]:
    groups = groups_of(rows)
    heads = [f"Dice: {group}" for group in groups]
    heads += ["seconds", "CPU seconds", "peak memory, MB", "parameters, M"]
    heads += ["GFLOPs per window", "GFLOPs per study", "weights, MB"]
    with_gpu = any(row.cost("peak_gpu_mb") for row in rows)
    heads += ["peak GPU memory, MB"] if with_gpu else []
    yield from _table_head("bundle", heads)
    for row in rows:
        cells = [_number(m.mean, 3) if (m := row.mean(group, "dice")) else "–" for group in groups]
        cells.append(_number(None if _was_busy(row) else row.cost("seconds"), 1))
        cells.append(_number(row.cost("cpu_seconds"), 1))
        cells.append(_number(row.cost("peak_mb"), 0))
        cells.append(_number((row.cost("parameters") or math.nan) / 1e6, 2))
        cells += [_number(row.cost(name), 0) for name in ("window_gflops", "study_gflops")]
        cells.append(_number(row.weights_mb, 1))
        cells += [_number(row.cost("peak_gpu_mb"), 0)] if with_gpu else []
        yield _line(row.name, cells)


def _group(rows: Sequence[Row], group: str) -> Iterator[str]:
    """Means of every metric, and Dice structure by structure."""
    scored = [row for row in rows if row.mean(group, "dice")]
    yield from ("", f"## {group[0].upper()}{group[1:]}", _ABOUT.get(group, ""), "")
    yield from _table_head("bundle", ["studies", *(title for title, _ in _COLUMNS.values())])
    for row in scored:
        means = [row.mean(group, metric) for metric in _COLUMNS]
        cells = [
            _with_interval(m, digits) for m, (_, digits) in zip(means, _COLUMNS.values(), strict=True) if m
        ]
        yield _line(row.name, [str(len(row.scores[group])), *cells])
    studies = list(dict.fromkeys(scores.study for row in scored for scores in row.scores[group]))
    if 1 < len(studies) <= _STUDIES:
        yield from _dice_table("mean Dice", scored, studies, [row.by_study(group, "dice") for row in scored])
    columns = [row.by_structure(group, "dice") for row in scored]
    yield from _dice_table("Dice", scored, structures_of(scored, group), columns)
    if group == MANUAL:
        for row in scored:
            yield from _volumes(row)


def _volumes(row: Row) -> Iterator[str]:
    """Distances and volumes of one bundle against manual labels, structure by structure."""
    measured = {metric: row.by_structure(MANUAL, metric) for metric in ("dice", "surface_dice", "hd95_mm")}
    bias, agreements = row.volume_bias(MANUAL), row.agreements(MANUAL)
    yield ""
    heads = ["Dice", "surface Dice at 1 mm", "HD95, mm", "volume bias, %", "bias, ml"]
    yield from _table_head(row.name, [*heads, "limits of agreement, ml", "correlation of volumes"])
    for name in measured["dice"]:
        digits = {"dice": 3, "surface_dice": 3, "hd95_mm": 2}
        cells = [_number(values.get(name), digits[metric]) for metric, values in measured.items()]
        percent, found = bias.get(name, math.nan), agreements.get(name)
        cells.append(f"{percent:+.0f}" if math.isfinite(percent) else "–")
        cells += _agreement_cells(found) if found else ["–"] * 3
        yield _line(name, cells)


def _agreement_cells(found: Agreement) -> list[str]:
    limits = f"{found.low:+.2f} to {found.high:+.2f}" if math.isfinite(found.low) else "–"
    return [f"{found.bias:+.2f}", limits, _number(found.correlation, 2)]


def _dice_table(
    title: str, rows: Sequence[Row], names: Sequence[str], columns: Sequence[Mapping[str, float]]
) -> Iterator[str]:
    yield ""
    yield from _table_head(title, [row.name for row in rows])
    for name in names:
        yield _line(name, [_number(column.get(name), 3) for column in columns])


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    failed = [(row.name, "all studies", row.error) for row in rows if row.error]
    failed += [(row.name, study, why) for row in rows for study, why in row.failures.items()]
    if failed:
        yield from ("", "## Failures", "")
        yield from _table_head("bundle", ["study", "why"])
        for name, study, why in failed:
            yield _line(name, [study, why.replace("|", "\\|")])


def _red(rows: Sequence[Row]) -> Iterator[str]:
    red = [(row.name, study, why) for row in rows for study, why in row.red.items()]
    if red:
        yield from ("", "## Red lights")
        yield "Quality control does not let these results pass. Their scores count above all the same."
        yield ""
        yield from _table_head("bundle", ["study", "finding"])
        for name, study, why in red:
            yield _line(name, [study, why.replace("|", "\\|")])


def _method(rows: Sequence[Row]) -> list[str]:
    timed = [row for row in rows if row.cost("seconds") is not None]
    costs = (timed[0].costs if timed else None) or {"rounds_seconds": [], "study": "the first study"}
    return _METHOD.format(
        rounds=len(costs["rounds_seconds"]),
        study=costs["study"],
        postprocessing="The configurations state the same post-processing for all."
        if len({row.postprocessing for row in timed}) <= 1
        else "**The configurations state different post-processing.**",
        busy=" The machine had other work to do\n"
        "  meanwhile, so seconds are left out; with one thread, CPU seconds are those of an idle machine."
        if any(_was_busy(row) for row in timed)
        else "",
    ).splitlines()


def _was_busy(row: Row) -> bool:
    """Whether a study took longer than the processor time spent on it, without a GPU."""
    waited = (row.cost("seconds") or 0) > _BUSY * (row.cost("cpu_seconds") or math.inf)
    return waited and row.cost("peak_gpu_mb") is None


def _weights(rows: Sequence[Row]) -> Iterator[str]:
    yield from ("", "## Weights", "")
    yield from _table_head("bundle", ["version", "SHA-256 of the weights"])
    for row in rows:
        yield _line(row.name, [row.version, f"`{row.weights_sha256}`" if row.weights_sha256 else "–"])


def _with_interval(summary: Summary, digits: int) -> str:
    text = _number(summary.mean, digits)
    if math.isfinite(summary.low):
        text += f" [{summary.low:.{digits}f}, {summary.high:.{digits}f}]"
    return text + (
        f", {summary.one_sided} missed" if summary.metric == "hd95_mm" and summary.one_sided else ""
    )


def _number(value: Any, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def _table_head(first: str, others: Sequence[str]) -> list[str]:
    return [_line(first, others), "|" + "---|" * (len(others) + 1)]


def _line(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"
