"""`medvit bench brain`: bundles on the same studies, each in its own process, and their results."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from medvit import __version__
from medvit.bench import page, tables
from medvit.bench.cache import key_of, read_record, write_record
from medvit.bench.costs import processor
from medvit.bench.icbm import template_study
from medvit.bench.manual import manual_studies
from medvit.bench.own import own_studies
from medvit.bench.peers import Peer
from medvit.bench.row import Row
from medvit.bench.studies import BenchStudy, check_references, compare
from medvit.bench.synthetic import synthetic_studies
from medvit.bench.work import COSTS, BenchWork, Segmenting
from medvit.bundles import Bundle, installed_bundles
from medvit.errors import MedvitError, MissingExtraError, StudyError
from medvit.evaluation.measure import StudyScores
from medvit.exits import ALL_WELL, INTERRUPTED, SOME_FAILED
from medvit.runs.bundle_work import BundleWork
from medvit.runs.options import execution_settings
from medvit.runs.record import failures_in, red_in
from medvit.runs.run import run_work
from medvit.runs.workers import LocalExecutor
from medvit.studies import Found, Refused, Study, only_study, sha256_of
from medvit.studies.done_mark import void_mark
from medvit.studies.labels import LabelTable, load_label_table

TABLE = "brain"
TIME_LIMIT = 3600.0  # seconds that a study may take, all its rounds included


@dataclass(frozen=True)
class BenchOptions:
    """Inputs of the bench.

    Parameters
    ----------
    atlases
        Folder of brain atlases for the template, see `template_study`.
    label_maps, held_out
        Folder of label maps to make synthetic studies from, and parts of the names of those to take.
    data
        Manifest or folder of your own labelled studies, see `own_studies`.
    manual, protocol, manual_cases
        A manifest or folder of manually segmented studies, what their values mean, and how many of them to
        take, see `manual_studies`.
    rounds
        Number of times that the first study is timed, after one warm-up.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    amp, tf32, backend
        Precision of the bundles' networks and what runs them, see `medvit.runs.options.execution_settings`.
    date
        Date on the page; empty to omit it.
    """

    atlases: Path | None = None
    label_maps: Path | None = None
    held_out: tuple[str, ...] = ("seg_09", "seg_14")
    data: Path | None = None
    manual: Path | None = None
    protocol: str | Path | None = None
    manual_cases: int | None = None
    rounds: int = 3
    device: str = "auto"
    amp: str = "off"
    tf32: bool = False
    backend: str = "torch"
    date: str = ""

    @property
    def overrides(self) -> dict[str, Any]:
        """What they set in the configuration of a bundle, by identifier."""
        device = {} if self.device == "auto" else {"device": f"$torch.device({self.device!r})"}
        return device | execution_settings(self.amp, self.tf32, self.backend)


def brain_bundles() -> list[Bundle]:
    """The installed bundles that write the label table "brain", except for quantised ones."""
    return [b for b in installed_bundles() if b.facts.get("labels") == TABLE and not b.is_quantised]


def bench_brain(
    output_dir: Path,
    options: BenchOptions | None = None,
    *,
    bundles: Sequence[Bundle] | None = None,
    peers: Sequence[Peer] = (),
    work_dir: Path | None = None,
) -> int:
    """Run brain bundles on the same studies and write the results.

    Parameters
    ----------
    output_dir
        Folder for ``bench.md``, ``bench.csv``, ``bench.json`` and ``images/bench_*.png``.
    options
        Inputs; by default the ICBM template alone.
    bundles
        Bundles to compare; by default all installed ones that write the label table "brain".
    peers
        Published networks to compare, where they have the structures.
    work_dir
        Folder for studies, label maps and records (default: ``output_dir/bench_work``); work recorded with
        the same weights, configuration and version of medvit is not repeated.

    Returns
    -------
    int
        Exit code: 0 all well, 3 a bundle failed on a study or altogether, or the light of a study is red;
        the page says why.

    Raises
    ------
    MedvitError
        If there are no bundles or no studies, or an input cannot be used.
    """
    options = options or BenchOptions()
    chosen, bundles = bundles or (), brain_bundles() if bundles is None else bundles
    work_dir = work_dir or output_dir / "bench_work"
    console = Console(stderr=True)
    table = load_label_table(TABLE)
    _check(bundles, options)
    with console.status("studies"):
        studies = _studies(table, options, work_dir / "studies", console)
    rows = []
    for contender in (*bundles, *peers):
        console.print(contender.name, markup=False, soft_wrap=True, style="bold")
        rows.append(bench_one(contender, studies, work_dir.resolve() / contender.name, options))
        _say(console, rows[-1])
    tables.write_csv(output_dir / "bench.csv", rows)
    tables.write_json(output_dir / "bench.json", rows, options.date)
    page.write_page(output_dir, rows, options.date, _command(options, chosen, peers))
    console.print(f"the table: {output_dir / 'bench.md'}", markup=False, soft_wrap=True)
    return SOME_FAILED if any(row.error or row.failures or row.red for row in rows) else ALL_WELL


def _command(options: BenchOptions, bundles: Sequence[Bundle], peers: Sequence[Peer]) -> str:
    """The command that gives the same page, with placeholders for folders."""
    parts = ["medvit bench brain -o OUT"]
    folders = {"atlases": "ATLASES", "label_maps": "LABEL_MAPS", "data": "DATA", "manual": "MANUAL"}
    for name, placeholder in folders.items():
        if getattr(options, name) is not None:
            parts.append(f"--{name.replace('_', '-')} {placeholder}")
    if options.label_maps is not None and options.held_out != BenchOptions.held_out:
        parts += [f"--held-out {part}" for part in options.held_out]
    if options.protocol is not None:
        parts.append(f"--protocol {Path(options.protocol).name}")
    if options.manual_cases is not None:
        parts.append(f"--manual-cases {options.manual_cases}")
    parts += [f"--bundle {bundle.name}" for bundle in bundles]
    parts += [f"--peer {peer.name}=FOLDER" for peer in peers]
    stated = {
        "rounds": options.rounds,
        "device": options.device,
        "amp": options.amp,
        "backend": options.backend,
    }
    parts += [f"--{name} {value}" for name, value in stated.items() if value != getattr(BenchOptions, name)]
    return " ".join([*parts, *(["--tf32"] if options.tf32 else [])])


def bench_one(
    contender: Bundle | Peer, studies: Sequence[BenchStudy], folder: Path, options: BenchOptions
) -> Row:
    """The row of one bundle or peer, including failures and their reasons.

    Parameters
    ----------
    studies
        Studies to run; the first one is timed.
    folder
        Absolute path of the folder for label maps and records of this bundle.
    """
    name, version = contender.name, contender.version
    if not contender.weights.is_file():
        return Row(name, version, error="has no weights")
    if isinstance(contender, Peer):
        studies = contender.studies(studies)
        if not studies:
            return Row(name, version, error="has none of the structures that are compared")
    segmenting: Segmenting = (
        contender.work(folder)
        if isinstance(contender, Peer)
        else BundleWork(contender, folder, {"report": False} | options.overrides)
    )
    first = studies[0]
    machine = [processor(), os.cpu_count(), os.environ.get("OMP_NUM_THREADS")]
    try:
        made_by = segmenting.made_by()
    except MedvitError as failed:
        return Row(name, version, error=without_folders(str(failed)))
    made_from = [made_by, options.device, sha256_of(first.image)]
    cost_key = key_of([made_from, options.rounds, machine])
    work = BenchWork(segmenting)
    if read_record(folder / COSTS, cost_key) is None:
        void_mark(folder / first.id)
        work = BenchWork(segmenting, first.id, cost_key, options.rounds)
    error = _run(work, studies)
    scores, failures = _scores(studies, folder, error)
    costs = read_record(folder / COSTS, cost_key)
    if costs is None and first.id not in failures:
        failures[first.id] = f"its costs are unknown: {error}"
    return Row(
        name,
        version,
        sha256_of(contender.weights),
        contender.weights.stat().st_size / 1e6,
        "of its own" if isinstance(contender, Peer) else _postprocessing(contender),
        scores,
        costs,
        {} if not scores and error else failures,
        _red(scores, folder),
        error if not scores else "",
    )


def _run(work: BenchWork, studies: Sequence[BenchStudy]) -> str:
    """Let the runner do the work in a process of its own; why it could not, or nothing."""
    found = [_found(study) for study in studies]
    kept = tuple(one for one in found if isinstance(one, Study))
    refused = tuple(one for one in found if isinstance(one, Refused))
    try:
        code = run_work(
            work,
            Found(kept, refused=refused),
            lambda _: LocalExecutor(work, 1, TIME_LIMIT),
            overwrite=True,
            retries=0,
            named=[study.image for study in studies],
        )
    except MedvitError as error:
        return without_folders(str(error))
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return ""


def _found(study: BenchStudy) -> Study | Refused:
    try:
        found = only_study(study.image)
        check_references(found, study.references)
        return replace(found, id=study.id)
    except StudyError as error:
        return Refused(study.id, error)


def _postprocessing(bundle: Bundle) -> str:
    return key_of(json.loads(bundle.config("inference").read_text(encoding="utf-8")).get("postprocessing"))


def _check(bundles: Sequence[Bundle], options: BenchOptions) -> None:
    if not bundles:
        raise MedvitError(f"no bundle that writes the label table {TABLE!r} is installed")
    for bundle in bundles:
        if bundle.facts.get("labels") != TABLE:
            raise MedvitError(f"bundle {bundle.name} does not write the label table {TABLE!r}")
    if options.rounds < 1:
        raise MedvitError(f"there must be at least one round of timing, not {options.rounds}")


def _studies(table: LabelTable, options: BenchOptions, folder: Path, console: Console) -> list[BenchStudy]:
    studies: list[BenchStudy] = []
    try:
        studies.append(template_study(table, folder, options.atlases))
    except MissingExtraError as error:
        if options.label_maps is None and options.data is None and options.manual is None:
            raise
        console.print(f"without the template: {error}", markup=False, soft_wrap=True)
    if options.label_maps is not None:
        studies += synthetic_studies(table, options.label_maps, folder, held_out=options.held_out)
    if options.data is not None:
        studies += own_studies(table, options.data)
    if options.manual is not None:
        studies += manual_studies(table, options.manual, options.protocol, options.manual_cases)
    _check_apart(studies)
    return studies


def _check_apart(studies: Sequence[BenchStudy]) -> None:
    """Refuse two studies of one id: one's label map would be compared with the other's reference."""
    seen: dict[str, BenchStudy] = {}
    for study in studies:
        if other := seen.get(study.id):
            raise MedvitError(
                f"{other.image} and {study.image} would share the folder {study.id}; give one another name"
            )
        seen[study.id] = study


def _label_map(folder: Path, study: str) -> Path:
    return folder / study / "labels.nii.gz"


def _scores(
    studies: Sequence[BenchStudy], folder: Path, error: str
) -> tuple[dict[str, list[StudyScores]], dict[str, str]]:
    """Scores by group, and the reasons of studies that have none."""
    scores: dict[str, list[StudyScores]] = {}
    failures = {}
    failed = {} if error else failures_in(folder)
    for study in studies:
        if error or study.id in failed:
            failures[study.id] = error or without_folders(failed[study.id])
            continue
        try:
            for group, scored in _compared(study, folder).items():
                scores.setdefault(group, []).append(scored)
        except StudyError as refused:
            failures[study.id] = without_folders(str(refused))
    return scores, failures


def _red(scores: dict[str, list[StudyScores]], folder: Path) -> dict[str, str]:
    """Why the light of a study with scores is red, by its id."""
    scored = {one.study for of_group in scores.values() for one in of_group}
    return {study: without_folders(why) for study, why in red_in(folder).items() if study in scored}


def _compared(study: BenchStudy, folder: Path) -> dict[str, StudyScores]:
    """Same as `compare`, but cached for the same label maps."""
    label_map, record = _label_map(folder, study.id), folder / f"{study.id}.scores.json"
    compared_with = [[r.group, sha256_of(r.path), repr((r.found, r.drawn))] for r in study.references]
    key = key_of([sha256_of(label_map), compared_with, __version__])
    known = read_record(record, key)
    if known is None:
        groups = compare(study.id, label_map, study.references)
        write_record(record, key, {"groups": {group: asdict(s) for group, s in groups.items()}})
        return groups
    return {group: StudyScores(**s | {"notes": tuple(s["notes"])}) for group, s in known["groups"].items()}


def without_folders(text: str) -> str:
    """`text` with files by name only: a table must not show the folders of a machine."""
    return re.sub(r"(?:\b[A-Za-z]:)?[/\\](?:[^\s/\\:;,'\"]+[/\\])+", "", text)


def _say(console: Console, row: Row) -> None:
    if row.error:
        console.print(f"FAILED {row.name}: {row.error}", style="red", markup=False, soft_wrap=True)
        return
    means = (f"{g}: {m.mean:.3f}" for g in row.scores if (m := row.mean(g, "dice")) is not None)
    console.print(f"{row.name}: Dice {'; '.join(means)}", markup=False, soft_wrap=True)
    for study, why in row.failures.items():
        console.print(f"FAILED {row.name} on {study}: {why}", style="red", markup=False, soft_wrap=True)
    for study, why in row.red.items():
        console.print(f"RED {row.name} on {study}: {why}", style="red", markup=False, soft_wrap=True)
