"""`medvit train --folds`: a bundle for each fold, a table of all cases, and their ensemble as a bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from medvit.bundles import Bundle
from medvit.bundles.write import bundle_files, card, refuse_existing, write_bundle
from medvit.datasets.splits import split_cases
from medvit.errors import MedvitError
from medvit.evaluation import Options, StudyScores
from medvit.evaluation.page import write_page
from medvit.evaluation.summary import summarise
from medvit.networks import read_checkpoint
from medvit.reports.tables import csv_text
from medvit.studies import atomic_path, sha256_of
from medvit.training.base import Base
from medvit.training.choices import Choices
from medvit.training.configuration import specification
from medvit.training.documents import Outcome, licence_note, metadata_section
from medvit.training.plan import Plan
from medvit.training.run import train_bundle
from medvit.training.workspace import Workspace

ENSEMBLE, TABLE, PAGE = "ensemble", "cross_validation.csv", "cross_validation.html"


def train_folds(
    base: Bundle | Base,
    manifest: str | Path,
    output: str | Path,
    choices: Choices,
    *,
    resume: bool = False,
    plan_only: bool = False,
    console: Console | None = None,
    **options: Any,
) -> Bundle | Plan:
    """Train a bundle for each fold of the patients, and join them to an ensemble.

    Parameters
    ----------
    base, manifest
        See `train_bundle`.
    output
        Folder for ``fold0``, ``fold1``, ... and ``ensemble``, a bundle each; for a table and a page of the
        validation Dice of every case, by the network that was not trained on it.
    choices
        With `folds`; the minutes are shared out among them. With `fold`, that one alone is trained; the
        ensemble is made when all are there.
    resume
        Continue with the folds that are not finished.
    options
        Further options of `train_bundle`.

    Returns
    -------
    Bundle or Plan
        The ensemble, or the last bundle that was trained while others are missing; the plan of the first fold
        with `plan_only`.

    Raises
    ------
    MedvitError
        If a training fails, or the bundles of the folds do not belong together.
    """
    output, console = Path(output), console or Console(stderr=True)
    apart = choices.folds, choices.fold or 0
    # Too few patients for the folds are refused before anything is said or done.
    split_cases(manifest, options.get("data", ""), choices.val_fraction, choices.seed, (), *apart)
    if plan_only:
        console.print(f"plan of the first of {choices.folds} folds:", highlight=False)
        first = replace(choices, fold=choices.fold or 0)
        return train_bundle(
            base, manifest, output / "fold0", first, plan_only=True, console=console, **options
        )
    bundles = [output / f"fold{number}" for number in range(choices.folds)]
    wanted = range(choices.folds) if choices.fold is None else [choices.fold]
    if choices.fold is None and not resume:
        refuse_existing(output)
    if choices.minutes is not None:
        choices = replace(choices, minutes=choices.minutes / choices.folds)
    for number in wanted:
        if resume and bundles[number].is_dir():
            continue
        console.print(f"fold {number} of {choices.folds}", style="bold", highlight=False)
        train_bundle(
            base, manifest, bundles[number], replace(choices, fold=number),
            resume=resume and Workspace(bundles[number].absolute()).folder.is_dir(),
            record=_record(bundles[number]), console=console, **options,
        )  # fmt: skip
    if not all(bundle.is_dir() for bundle in bundles):
        return Bundle(bundles[wanted[-1]].resolve())
    ensemble = join_folds(bundles, output / ENSEMBLE)
    console.print(f"{ensemble.path}: {ensemble.facts['quality']}", soft_wrap=True)
    return ensemble


def join_folds(bundles: list[Path], output: Path) -> Bundle:
    """The ensemble of trained folds as a bundle; beside it the table and the page of the cross-validation.

    Raises
    ------
    MedvitError
        If the folds differ in their structures, grid or preparation, or share validation cases.
    """
    records = [json.loads(_record(bundle).read_text(encoding="utf-8")) for bundle in bundles]
    plans = [_plan(record["plan"]) for record in records]
    parts = ("labels", "channels", "spacing", "patch_size", "slice_axis", "intensity", "task")
    for name in parts:
        if any(getattr(plan, name) != getattr(plans[0], name) for plan in plans):
            raise MedvitError(
                f"{output.parent}: the folds differ in {name.replace('_', ' ')}, so they have no ensemble; "
                "train them with the same --spacing, --patch-size and data"
            )
    scores = {case: values for record in records for case, values in record["cases"].items()}
    if len(scores) != sum(len(record["cases"]) for record in records):
        raise MedvitError(f"{output.parent}: folds have validation cases in common; train them with one seed")
    _write_scores(output.parent, records)
    outcome = _outcome(scores, len(bundles))
    network = {
        "_target_": "medvit.networks.Ensemble", "networks": [plan.network for plan in plans]
    }  # fmt: skip
    whole = {"training": len(scores), "validation": len(scores)}
    plan = replace(plans[0], network=network, cases=whole, split=f"{len(bundles)} folds, drawn by patient")

    def save(path: Path) -> None:
        members = [read_checkpoint(Bundle(bundle).weights) for bundle in bundles]
        state = {f"networks.{n}.{key}": value for n, one in enumerate(members) for key, value in one.items()}
        torch.save(state, path)

    def contents(weights: Path) -> Mapping[str, str]:
        described = metadata_section(plan, output.name, outcome, sha256_of(weights))
        return bundle_files(output.name, specification(plan, described), ("inference",)) | {
            "docs/README.md": _readme(plan, output.name, outcome, len(bundles)),
            "LICENSE": licence_note(plan, None),
        }

    return write_bundle(output, save, contents)


def _record(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.json")


def _plan(content: dict[str, Any]) -> Plan:
    """A plan from JSON, in which triples are lists."""
    lists = ("channels", "spacing", "patch_size")
    return Plan(**content | {name: tuple(content[name]) for name in lists})


def _outcome(scores: Mapping[str, Mapping[str, float | None]], folds: int) -> Outcome:
    """The mean Dice of each structure over all cases that have it."""
    names = dict.fromkeys(name for values in scores.values() for name in values)
    known = {name: [v for values in scores.values() if (v := values[name]) is not None] for name in names}
    means = {name: sum(values) / len(values) for name, values in known.items() if values}
    score = sum(means.values()) / len(means) if means else None
    chosen = f"each by the one of {folds} networks that was not trained on it, which chose its epoch"
    return Outcome("", score, means, chosen=chosen)


def _write_scores(folder: Path, records: list[dict[str, Any]]) -> None:
    rows = [
        {"fold": number, "case": case, **values}
        for number, record in enumerate(records)
        for case, values in record["cases"].items()
    ]
    with atomic_path(folder / TABLE) as partial:
        partial.write_text(csv_text(rows), encoding="utf-8")
    scores = [
        StudyScores(
            row["case"],
            dict.fromkeys(names, "both"),
            {name: {"dice": math.nan if row[name] is None else row[name]} for name in names},
        )
        for row in rows
        if (names := [name for name in row if name not in ("fold", "case")])
    ]
    write_page(folder / PAGE, scores, summarise(scores), (), (), Options())


def _readme(plan: Plan, name: str, outcome: Outcome, folds: int) -> str:
    facts = {word: clause for word, clause in plan.lines() if word not in ("note", "schedule", "cases")}
    facts["cases"] = f"{plan.cases['training']}, in {folds} folds drawn by patient"
    rows = "".join(f"| {structure} | {dice:.3f} |\n" for structure, dice in outcome.structures.items())
    quality = f"""## Quality

| structure | Dice |
| --- | --- |
{rows}
Cross-validated: each case was segmented by the network that was not trained on it. That network's epoch
was chosen on its own validation cases. The ensemble itself has seen every case, so what it reaches on unseen
ones is not measured; expect about as much as the table says."""
    return card(
        name,
        f"{folds} networks, one for each fold of the data, whose probabilities are averaged. "
        f"Run it: `medvit run ./{name} STUDY -o OUT --trust`. It takes {folds} times as long as one of them.",
        facts,
        quality,
    )
