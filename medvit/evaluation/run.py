"""`medvit evaluate`: predictions against references, as CSV, JSON and a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from medvit.errors import MedvitError, StudyError
from medvit.evaluation.images import measure_images
from medvit.evaluation.measure import Options, StudyScores, measure_pair
from medvit.evaluation.page import SHOWN, write_page
from medvit.evaluation.pairing import find_pairs
from medvit.evaluation.structures import IGNORE, read_regions
from medvit.evaluation.summary import (
    LEVEL,
    RESAMPLES,
    Summary,
    agreements,
    names_of,
    pooled_reliability,
    summarise,
)
from medvit.exits import ALL_WELL, NOTHING_TO_DO, SOME_FAILED
from medvit.reports.tables import csv_text, plain
from medvit.studies.files import atomic_path, write_json
from medvit.studies.found import LeftOut, Refused

SCHEMA_VERSION = "1.1"
_PRINTED = ("dice", "surface_dice", "hd95_mm", "ece", "psnr_db", "ssim", "rmse", "bias")


def evaluate(
    prediction: Path | str,
    reference: Path | str,
    output_dir: Path | str | None = None,
    *,
    labels: str | Path | None = None,
    options: Options | None = None,
) -> int:
    """Compare predicted label maps, probability maps or restored images with references.

    Parameters
    ----------
    prediction, reference
        Files or folders, paired as `find_pairs` says.
    output_dir
        Folder for ``evaluation.csv`` (a line for each structure of each study), ``evaluation.json`` and
        ``evaluation.html``. Without it the table is printed and nothing is written.
    labels
        Argument of `read_regions`; by default the names beside the label maps, or else their values.
    options
        Options of the evaluation.

    Returns
    -------
    int
        Exit code: 0 all well, 2 nothing to do, 3 some studies could not be compared.

    Raises
    ------
    MedvitError
        If an input does not exist, the label table cannot be understood, the tolerance is negative or
        the window empty.
    """
    options = options or Options()
    if not options.tolerance >= 0:
        raise MedvitError(f"the tolerance must be 0 mm or more, not {options.tolerance}")
    if options.window is not None and not options.window[0] < options.window[1]:
        raise MedvitError(f"the window must run from a lower to a higher value, not {options.window}")
    regions = read_regions(labels) if labels is not None else None
    if ignored := [region for region in regions or () if region.name == IGNORE]:
        regions = tuple(region for region in regions or () if region.name != IGNORE)
        options = replace(options, ignore=ignored[0].values[0])
    pairing = find_pairs(prediction, reference, images=options.window is not None)
    console = Console(stderr=True)
    if not pairing.pairs and not pairing.refused:
        console.print("Nothing to do: nothing to compare was found.", style="bold red")
        return NOTHING_TO_DO
    scores, refused = [], list(pairing.refused)
    for pair in track(pairing.pairs, "studies", console=console, transient=True):
        try:
            scores.append(
                measure_images(pair, options.window)
                if options.window
                else measure_pair(pair, regions, options)
            )
        except StudyError as error:
            refused.append(Refused(pair.study, error))
    summaries = summarise(scores)
    if output_dir is not None:
        _write(Path(output_dir), scores, summaries, refused, pairing.left_out, options)
    _show(scores, summaries, refused, output_dir)
    return SOME_FAILED if refused else ALL_WELL


def _write(
    output: Path,
    scores: Sequence[StudyScores],
    summaries: Sequence[Summary],
    refused: Sequence[Refused],
    left_out: Sequence[LeftOut],
    options: Options,
) -> None:
    with atomic_path(output / "evaluation.csv") as partial:
        partial.write_text(csv_text(_lines(scores, refused)), encoding="utf-8")
    content = _content(scores, summaries, refused, left_out, options)
    # JSON has neither NaN nor infinity; `presence` tells which of them null stands for.
    write_json(output / "evaluation.json", plain(content))
    write_page(output / "evaluation.html", scores, summaries, refused, left_out, options)


def _lines(scores: Sequence[StudyScores], refused: Sequence[Refused]) -> Iterator[dict[str, Any]]:
    """A line for each structure of each study; empty cells are undefined."""
    for one in scores:
        for structure, values in one.values.items():
            head = {"study": one.study, "structure": structure, "presence": one.presence[structure]}
            yield head | {metric: None if math.isnan(v) else v for metric, v in values.items()}
    for r in refused:
        yield {"study": r.id, "presence": "not compared", "error": str(r.error)}


def _content(
    scores: Sequence[StudyScores],
    summaries: Sequence[Summary],
    refused: Sequence[Refused],
    left_out: Sequence[LeftOut],
    options: Options,
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "research_use_only": True,
        "options": asdict(options),
        "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "unit": "study"},
        "summary": [asdict(s) for s in summaries],
        "bland_altman": [
            {"structure": a.structure, "studies": len(a.mean_ml), "bias_ml": a.bias}
            | {"low_ml": a.low, "high_ml": a.high}
            for a in agreements(scores)
        ],
        "calibration": {
            structure: {"ece": found.ece, "mce": found.mce}
            | {"confidence": found.confidence.tolist(), "accuracy": found.accuracy.tolist()}
            | {"voxels": found.count.tolist()}
            for structure, found in pooled_reliability(scores).items()
        },
        "studies": [
            {
                "study": one.study,
                "notes": one.notes,
                "structures": {
                    name: {"presence": one.presence[name]} | values for name, values in one.values.items()
                },
            }
            for one in scores
        ],
        "failures": [{"study": r.id, "code": r.error.code, "error": str(r.error)} for r in refused],
        "left_out": [{"path": thing.path, "why": thing.why} for thing in left_out],
    }


def _show(
    scores: Sequence[StudyScores],
    summaries: Sequence[Summary],
    refused: Sequence[Refused],
    output: Path | str | None,
) -> None:
    """The means of each structure, what failed, and where the results are."""
    console = Console()
    metrics = [m for m in _PRINTED if any(s.metric == m for s in summaries)]
    table = Table("structure", *(SHOWN[m][0] for m in metrics))
    found = {(s.structure, s.metric): s for s in summaries}
    for name in names_of(summaries):
        table.add_row(escape(name), *(_figure(found[name, m].mean, SHOWN[m][2]) for m in metrics))
    if summaries:
        console.print(table, markup=False)
    for one in scores:
        for note in one.notes:
            console.print(f"{one.study}: {note}", markup=False, soft_wrap=True)
    for r in refused:
        console.print(f"FAILED {r.id}: {r.error}", style="red", markup=False, soft_wrap=True)
    where = f": {Path(output) / 'evaluation.html'}" if output is not None else ""
    done = f"{len(scores)} of {len(scores) + len(refused)} studies compared{where}"
    console.print(done, markup=False, soft_wrap=True)


def _figure(value: float, digits: int) -> str:
    """A mean as text; the distance is infinite for a structure that no study has on both sides."""
    return "-" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.{digits}f}"
