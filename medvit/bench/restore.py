"""`medvit bench restore`: super-resolution bundles and classical upsampling on real studies made coarse."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medvit import __version__
from medvit.bench.cache import key_of
from medvit.bench.truth import SCORES, RestoreOptions, Truth, make_truth
from medvit.bench.upsampling import METHODS
from medvit.bundles import Bundle, find_bundle, open_bundle, segment
from medvit.errors import MedvitError, WeightsError
from medvit.exits import INTERRUPTED
from medvit.metrics import dice
from medvit.reports.tables import csv_text, plain
from medvit.runs.done import input_sha256, study_folder
from medvit.runs.outcome import StudyOutcome
from medvit.runs.record import failures_in
from medvit.runs.run import run_work
from medvit.runs.workers import LocalExecutor
from medvit.studies import Study, find_studies, safe_join, sha256_of
from medvit.studies.files import atomic_path, write_json
from medvit.studies.in_memory import study_in_memory
from medvit.studies.study import Grid

SUPER_RESOLVED = "super-resolved"
TIME_LIMIT = 7200.0  # seconds that a study may take, with all methods
_FILE = "scores.json"


def by_bundle(bundle: Bundle, truth: Truth, device: str = "auto") -> np.ndarray:
    """A bundle's estimate on the grid of the truth, through its own preprocessing and inference.

    Raises
    ------
    MedvitError
        If the estimate lies on another grid.
    """
    overrides: dict[str, Any] = {"force": True}
    if 2 in truth.stacks:
        overrides["spacing"] = truth.stacks[2].spacing
    if device != "auto":
        overrides["device"] = f"$torch.device({device!r})"
    result = segment(bundle, truth.coarse_study, **overrides)
    if result.grid.shape != truth.grid.shape:
        raise MedvitError(
            f"{bundle.name}: the estimate has {result.grid.shape} voxels, not {truth.grid.shape}"
        )
    return result.voxels


@dataclass
class RestoreWork:
    """Makes each study coarse, restores it in every way, and writes the scores into its folder.

    Parameters
    ----------
    output_dir
        Absolute folder of the studies' folders.
    options, bundles, device
        Same as in `bench_restore`.
    """

    output_dir: Path
    options: RestoreOptions
    bundles: Sequence[Bundle] = ()
    device: str = "auto"
    preload: tuple[str, ...] = ("medvit.bundles", "medvit.metrics")

    def open(self) -> None:
        """Load the segmenter, where there is one."""
        name = self.options.segmenter
        self._segmenter = _Segmenter(name, self.device) if name else None

    def made_by(self) -> dict[str, Any]:
        """Version, options, and weights and configurations of the bundles."""
        segmenter = [find_bundle(self.options.segmenter)] if self.options.segmenter else []
        bundles = {bundle.name: _digests(bundle) for bundle in (*self.bundles, *segmenter)}
        return {
            "medvit": __version__,
            "options": plain(asdict(self.options)),
            "bundles": bundles,
            "device": self.device,
        }

    def perform(self, study: Study, outcome: StudyOutcome) -> None:
        """Score every restoration of `study`."""
        with outcome.timed("read"):
            outcome.inputs = input_sha256(study)
            truth = make_truth(study, self.options)
        with outcome.timed("infer"):
            rows = list(_rows(truth, self.bundles, self._segmenter, self.device))
        made_from = self.made_by() | {"inputs": outcome.inputs}
        with outcome.timed("write"), study_folder(self.output_dir, study.id, made_from) as folder:
            write_json(folder / _FILE, plain({"rows": rows}))
        outcome.outputs = [_FILE]


def bench_restore(
    inputs: Sequence[str | Path],
    output_dir: Path,
    options: RestoreOptions | None = None,
    *,
    bundles: Sequence[Bundle] = (),
    device: str = "auto",
) -> int:
    """Make real studies coarse, restore them in every way, and write ``restore.csv``, ``.json`` and ``.md``.

    The runner does it in a process of its own, and records it in ``bench_work``; work recorded with the same
    weights, options and version of medvit is not repeated.

    Parameters
    ----------
    inputs
        Studies of about 1 mm, which stand for the truth.
    output_dir
        Folder for the tables.
    options
        How studies are made coarse.
    bundles
        Super-resolution bundles to compare.
    device
        Device of the bundles.

    Returns
    -------
    int
        Exit code: 0 all well, 3 a study could not be used.

    Raises
    ------
    MedvitError
        If there are no studies, or a bundle does not super-resolve or has no weights.
    """
    options = options or RestoreOptions()
    for bundle in bundles:
        if bundle.facts.get("restoration") != SUPER_RESOLVED:
            raise MedvitError(f"bundle {bundle.name} does not super-resolve")
    found = find_studies(list(inputs))
    if not found.studies and not found.refused:
        raise MedvitError("there is no study to compare on")
    work = RestoreWork((output_dir / "bench_work").absolute(), options, tuple(bundles), device)
    code = run_work(
        work,
        found,
        lambda _: LocalExecutor(work, 1, TIME_LIMIT),
        overwrite=True,
        retries=0,
        named=inputs,
    )
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    failed = failures_in(work.output_dir)
    files = [safe_join(work.output_dir, s.id) / _FILE for s in found.studies if s.id not in failed]
    rows = [row for file in files if file.is_file() for row in json.loads(file.read_text("utf-8"))["rows"]]
    if rows:
        _write(output_dir, rows, options)
    write_json(output_dir / "restore.json", plain({"options": asdict(options), "rows": rows}))
    return code


def _digests(bundle: Bundle) -> list[str]:
    if not bundle.weights.is_file():
        raise WeightsError(f"{bundle.weights}: bundle {bundle.name} has no weights")
    return [sha256_of(bundle.weights), key_of(bundle.config("inference").read_text(encoding="utf-8"))]


def _rows(
    truth: Truth, bundles: Sequence[Bundle], segmenter: _Segmenter | None, device: str
) -> Iterator[dict[str, Any]]:
    wanted = segmenter(truth.image, truth.grid) if segmenter else None
    ways: dict[str, Any] = {
        name: partial(method, truth.samples, truth.stacks) for name, method in METHODS.items()
    }
    ways |= {bundle.name: partial(by_bundle, bundle, truth, device) for bundle in bundles}
    for name, restore in ways.items():
        started = time.process_time()
        restored = np.asarray(restore(), np.float32)
        seconds = time.process_time() - started
        row = {
            "study": truth.name,
            "method": name,
            **truth.scores(restored),
            "cpu_seconds": round(seconds, 1),
        }
        if segmenter and wanted is not None:
            row["dice"] = _mean_dice(segmenter(restored, truth.grid), wanted)
        yield row


class _Segmenter:
    """A bundle whose label maps tell whether a restored image still shows what the true one shows."""

    def __init__(self, name: str, device: str) -> None:
        overrides = {} if device == "auto" else {"device": f"$torch.device({device!r})"}
        self.opened = open_bundle(find_bundle(name), force=True, **overrides)

    def __call__(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        return segment(self.opened, study_in_memory(image, grid.affine)).voxels


def _mean_dice(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean Dice of the structures that either label map has."""
    values = np.union1d(np.unique(found), np.unique(wanted))
    return float(np.mean([dice(found == v, wanted == v) for v in values if v]))


def _write(folder: Path, rows: Sequence[dict[str, Any]], options: RestoreOptions) -> None:
    with atomic_path(folder / "restore.csv") as unfinished:
        unfinished.write_text(csv_text(rows), encoding="utf-8")
    with atomic_path(folder / "restore.md") as unfinished:
        unfinished.write_text(_page(rows, options), encoding="utf-8")


def _page(rows: Sequence[dict[str, Any]], options: RestoreOptions) -> str:
    """Means over the studies, and on how many of them a method is better than all classical ones."""
    known = {**SCORES, "dice": "Dice of labels", "cpu_seconds": "CPU s"}
    columns = {key: word for key, word in known.items() if key in rows[0]}
    studies = list(dict.fromkeys(row["study"] for row in rows))
    part = f", middle {options.cut}³" if options.cut else ""
    coarse = f"slices {options.step} voxels apart, {options.thickness or options.step:g} thick "
    coarse += f"({options.profile})"
    if options.in_plane:
        coarse = f"slices of pixels {options.step} voxels wide (k-space cut off)"
    lines = [
        f"{len(studies)} studies, {options.plane} {coarse}, noise {options.noise:.1%}{part}",
        "",
        "| method | " + " | ".join(columns.values()) + " | best in all four on |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        means = " | ".join(f"{np.mean([row[key] for row in own]):.4g}" for key in columns)
        won = sum(_wins(row, rows) for row in own)
        lines.append(f"| {name} | {means} | {won} of {len(own)} |")
    return "\n".join(lines) + "\n"


def _wins(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a row is better in all four scores than every classical method on its study."""
    others = [r for r in rows if r["study"] == row["study"] and r["method"] in METHODS and r is not row]
    better = {"psnr_db": 1, "ssim": 1, "nrmse": -1, "hfen": -1}
    return all(sign * row[key] > sign * other[key] for other in others for key, sign in better.items())
