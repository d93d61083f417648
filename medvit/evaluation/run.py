"""`medvit evaluate`: predictions against references, as CSV, JSON and a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
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
from medvit.evaluation.pairing import NO_PREDICTION, find_pairs
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
_LISTED = 3  # studies that lack a prediction are named one by one up to here
_LEFT_OUT = 20  # files left out are named up to here
_PRINTED = ("dice", "surface_dice", "hd95_mm", "ece", "psnr_db", "ssim", "rmse", "bias")


@dataclass(frozen=True)
class Evaluation:
    """What was compared, with what options, and what could not be.

    Parameters
    ----------
    scores
        Scores of each study that was compared.
    refused
        Studies that could not be compared.
    left_out
        Files that are not a side of a pair.
    """

    scores: tuple[StudyScores, ...]
    refused: tuple[Refused, ...]
    left_out: tuple[LeftOut, ...]
    options: Options

    @cached_property
    def summaries(self) -> Sequence[Summary]:
        """Means over the studies with their intervals."""
        return summarise(self.scores)

    @property
    def exit_code(self) -> int:
        """0 all well, 2 nothing to do, 3 some studies could not be compared."""
        if not self.scores and not self.refused:
            return NOTHING_TO_DO
        return SOME_FAILED if self.refused else ALL_WELL

    @property
    def why(self) -> str:
        """What went wrong, in one clause; empty where all is well."""
        if self.exit_code == NOTHING_TO_DO:
            return "nothing to compare was found"
        return f"{len(self.refused)} studies could not be compared" if self.refused else ""

    def as_dict(self) -> dict[str, Any]:
        """The content of ``evaluation.json``."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "research_use_only": True,
            "options": asdict(self.options),
            "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "unit": "study"},
            "summary": [asdict(s) for s in self.summaries],
            "bland_altman": [
                {"structure": a.structure, "studies": len(a.mean_ml), "bias_ml": a.bias}
                | {"low_ml": a.low, "high_ml": a.high}
                for a in agreements(self.scores)
            ],
            "calibration": {
                structure: {"ece": found.ece, "mce": found.mce}
                | {"confidence": found.confidence.tolist(), "accuracy": found.accuracy.tolist()}
                | {"voxels": found.count.tolist()}
                for structure, found in pooled_reliability(self.scores).items()
            },
            "studies": [
                {
                    "study": one.study,
                    "notes": one.notes,
                    "structures": {
                        name: {"presence": one.presence[name]} | values for name, values in one.values.items()
                    },
                }
                for one in self.scores
            ],
            "failures": [{"study": r.id, "code": r.error.code, "error": str(r.error)} for r in self.refused],
            "left_out": [{"path": thing.path, "why": thing.why} for thing in self.left_out],
        }
        # JSON has neither NaN nor infinity; `presence` tells which of them null stands for.
        return plain(content)


def evaluate(
    prediction: Path | str,
    reference: Path | str,
    output_dir: Path | str | None = None,
    *,
    labels: str | Path | None = None,
    options: Options | None = None,
) -> Evaluation:
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
    Evaluation
        Scores, means, and what could not be compared.

    Raises
    ------
    MedvitError
        If an input does not exist, the label table cannot be understood, the tolerance is negative, the
        window is empty or infinite, or scores of label maps are asked for beside it.
    """
    options = options or Options()
    if not options.tolerance >= 0:
        raise MedvitError(f"the tolerance must be 0 mm or more, not {options.tolerance}")
    if options.window is not None and not (-math.inf < options.window[0] < options.window[1] < math.inf):
        raise MedvitError(f"the window must run from a lower to a higher value, not {options.window}")
    if options.window is not None and (
        labels is not None or options.lesions or options.centreline or options.probabilities
    ):
        raise MedvitError("a window compares images; leave out the options for label maps")
    regions = read_regions(labels) if labels is not None else None
    if ignored := [region for region in regions or () if region.name == IGNORE]:
        regions = tuple(region for region in regions or () if region.name != IGNORE)
        options = replace(options, ignore=ignored[0].values[0])
    pairing = find_pairs(prediction, reference, images=options.window is not None)
    console = Console(stderr=True)
    if not pairing.pairs and not pairing.refused:
        console.print("Nothing to do: nothing to compare was found.", style="bold red")
        return Evaluation((), (), pairing.left_out, options)
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
    done = Evaluation(tuple(scores), tuple(refused), pairing.left_out, options)
    if output_dir is not None:
        _write(Path(output_dir), done)
    _show(done, output_dir)
    return done


def _write(output: Path, done: Evaluation) -> None:
    with atomic_path(output / "evaluation.csv") as partial:
        partial.write_text(csv_text(_lines(done.scores, done.refused)), encoding="utf-8")
    write_json(output / "evaluation.json", done.as_dict())
    page = output / "evaluation.html"
    write_page(page, done.scores, done.summaries, done.refused, done.left_out, done.options)


def _lines(scores: Sequence[StudyScores], refused: Sequence[Refused]) -> Iterator[dict[str, Any]]:
    """A line for each structure of each study; empty cells are undefined."""
    for one in scores:
        for structure, values in one.values.items():
            head = {"study": one.study, "structure": structure, "presence": one.presence[structure]}
            yield head | {metric: None if math.isnan(v) else v for metric, v in values.items()}
    for r in refused:
        yield {"study": r.id, "presence": "not compared", "error": str(r.error)}


def _show(done: Evaluation, output: Path | str | None) -> None:
    """The means of each structure, what failed, and where the results are."""
    console = Console()
    metrics = [m for m in _PRINTED if any(s.metric == m for s in done.summaries)]
    table = Table("structure", *(SHOWN[m][0] for m in metrics))
    found = {(s.structure, s.metric): s for s in done.summaries}
    for name in names_of(done.summaries):
        table.add_row(escape(name), *(_figure(found[name, m].mean, SHOWN[m][2]) for m in metrics))
    if done.summaries:
        console.print(table, markup=False)
    for one in done.scores:
        for note in one.notes:
            console.print(f"{one.study}: {note}", markup=False, soft_wrap=True)
    for thing in done.left_out[:_LEFT_OUT]:
        console.print(f"left out: {thing.path}: {thing.why}", style="dim", markup=False, soft_wrap=True)
    if len(done.left_out) > _LEFT_OUT:
        console.print(f"left out: {len(done.left_out) - _LEFT_OUT} more", style="dim")
    for line in _failures(done.refused):
        console.print(f"FAILED {line}", style="red", markup=False, soft_wrap=True)
    where = f": {Path(output) / 'evaluation.html'}" if output is not None else ""
    count = len(done.scores)
    compared = f"{count} of {count + len(done.refused)} studies compared{where}"
    console.print(compared, markup=False, soft_wrap=True)


def _failures(refused: Sequence[Refused]) -> Iterator[str]:
    """A line for each failure, but one for all references that lack a prediction, if there are many."""
    lacking = [r.id for r in refused if r.error.code == NO_PREDICTION]
    together = len(lacking) > _LISTED
    for r in refused:
        if not (together and r.error.code == NO_PREDICTION):
            yield f"{r.id}: {r.error}"
    if together:
        named = f"{', '.join(lacking[:_LISTED])} and {len(lacking) - _LISTED} more"
        yield f"{named}: have no prediction of their name; run the studies, or remove their references"


def _figure(value: float, digits: int) -> str:
    """A mean as text; the distance is infinite for a structure that no study has on both sides."""
    return "-" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.{digits}f}"
