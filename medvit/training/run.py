"""`medvit train`: survey, plan, training and bundle, with a work folder beside the result for resuming."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from medvit.bundles import Bundle, open_bundle
from medvit.bundles.write import bundle_files, write_files
from medvit.datasets import Manifest, read_manifest
from medvit.datasets.splits import Split, split_cases
from medvit.errors import MedvitError, root_cause
from medvit.networks import LateralSegmenter
from medvit.studies import sha256_of, write_json
from medvit.studies.labels import parse_label_table
from medvit.training import save_weights
from medvit.training.base import Base
from medvit.training.case_facts import survey
from medvit.training.choices import Choices
from medvit.training.configuration import WORKFLOWS, specification
from medvit.training.costs import measure
from medvit.training.documents import Outcome, go_on, licence_note, metadata_section, readme
from medvit.training.encoder_file import load_encoder
from medvit.training.history import keep_history
from medvit.training.network import CarriedOver, build, carry_over, readout_of
from medvit.training.plan import Plan, make_plan
from medvit.training.published_encoders import is_ours, load_published_encoder
from medvit.training.windows import lacks_memory, smaller_window
from medvit.training.workspace import Workspace


def train_bundle(
    base: Bundle | Base,
    manifest: str | Path,
    output: str | Path,
    choices: Choices | None = None,
    *,
    data: str | Path = "",
    scratch: Path | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    plan_only: bool = False,
    record: Path | None = None,
    console: Console | None = None,
) -> Bundle | Plan:
    """Train a network on labelled studies; the result is a separate bundle.

    Parameters
    ----------
    base
        The bundle whose network and weights are taken, or what `medvit.training.find_base` gives.
    manifest
        Manifest of the data set, in any form that `medvit.datasets.read_manifest` takes.
    output
        Folder of the new bundle.
    choices
        Settings that override those taken from the data.
    data
        Folder of the data set; the one of the manifest by default.
    scratch
        Folder for prepared cases, which take about 3 bytes a voxel; beside the bundle by default.
    resume
        Continue with the same plan after the last completed epoch.
    skip_bad
        Leave broken cases out.
    plan_only
        Show the plan and its cost, measured on a few steps, and stop.
    record
        JSON file for the plan and the validation Dice of each case, which the bundle does not name.

    Returns
    -------
    Bundle or Plan
        The finished bundle; the plan with `plan_only`.

    Raises
    ------
    MedvitError
        If a case is broken, something does not fit, memory runs out, or training is interrupted.
    """
    choices, console = choices or Choices(), console or Console(stderr=True)
    base = Base.of_bundle(base) if isinstance(base, Bundle) else base
    work = Workspace(Path(output).absolute(), scratch)
    if resume or not plan_only:
        work.open(resume)
    listing = read_manifest(manifest).path.absolute()
    folder = str(Path(data).absolute() if data else listing.parent)
    if resume:
        plan = _resumed(work, listing, folder)
    else:
        plan = _planned(base, listing, folder, choices, skip_bad, console)
        if plan_only or plan.settings["minutes"]:
            plan = _costed(plan, console)
    _show(console, plan.lines())
    if plan_only:
        return plan
    plan = plan if resume else _begun(work, base, plan)
    _show(console, [("weights", plan.carried)])
    outcome = _trained(work, plan, listing, folder)
    save_documents(work, plan, outcome)
    if record is not None:
        _write_record(record, plan, outcome, _split_of(plan, listing, folder))
    finished = work.close()
    console.print(f"{finished.path}: {outcome.quality(plan.cases['validation'])}", soft_wrap=True)
    if outcome.improving:
        console.print(go_on(finished.name, outcome.epochs), markup=False, soft_wrap=True)
    return finished


def _show(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    for word, clause in lines:
        console.print(f"{word:12} {clause}", markup=False, highlight=False, soft_wrap=True)


def _resumed(work: Workspace, manifest: Path, folder: str) -> Plan:
    """The plan of an interrupted training, if the data are still those that it was made for."""
    plan = Plan(**json.loads(work.plan_file.read_text(encoding="utf-8")))
    split = _split_of(plan, manifest, folder)
    if _counted(split) != plan.cases:
        raise MedvitError(
            f"{folder} has {len(split.training)} + {len(split.validation)} cases where the plan had "
            f"{plan.cases['training']} + {plan.cases['validation']}: remove {work.folder} and start anew"
        )
    return plan


def _split_of(plan: Plan, manifest: str | Path | Manifest, folder: str) -> Split:
    s = plan.settings
    apart = s["folds"], s["fold"]
    return split_cases(manifest, folder, s["val_fraction"], s["seed"], plan.left_out, *apart)


def _write_record(file: Path, plan: Plan, outcome: Outcome, split: Split) -> None:
    names = [structure["name"] for structure in plan.labels["structures"]]
    scores = {
        case.id: {name: None if math.isnan(value) else value for name, value in zip(names, row, strict=True)}
        for case, row in zip(split.validation, outcome.cases, strict=True)
    }
    write_json(file, {"plan": asdict(plan), "cases": scores})


def _planned(
    base: Base, manifest: Path, folder: str, choices: Choices, skip_bad: bool, console: Console
) -> Plan:
    apart = choices.folds, choices.fold or 0
    split = split_cases(manifest, folder, choices.val_fraction, choices.seed, (), *apart)
    console.print(f"looking at {len(split.training) + len(split.validation)} cases", highlight=False)
    facts = survey(
        (*split.training, *split.validation),
        split.manifest,
        skip_bad=skip_bad,
        say=lambda text: console.print(text, markup=False, soft_wrap=True),
    )
    sound = {f.case for f in facts}
    left_out = tuple(c.id for c in (*split.training, *split.validation) if c.id not in sound)
    if left_out:
        split = split_cases(split.manifest, folder, choices.val_fraction, choices.seed, left_out, *apart)
    return make_plan(
        base, split.manifest, facts, choices, split=split.rule, left_out=left_out, cases=_counted(split)
    )


def _costed(plan: Plan, console: Console) -> Plan:
    """The plan with as many epochs as fit into its time; shows the cost."""
    device, s = torch.device(plan.settings["device"]), plan.settings
    try:
        cost = measure(plan.network, plan.window, s["batch_size"], len(plan.channels), device)
    except (RuntimeError, MemoryError) as error:
        raise _in_plain_words(error, plan) from error
    plan = plan.in_time(cost)
    _show(console, plan.costs(cost))
    return plan


def _counted(split: Split) -> dict[str, int]:
    return {"training": len(split.training), "validation": len(split.validation)}


def _begun(work: Workspace, base: Base, plan: Plan) -> Plan:
    """The bundle with its first weights in the work folder; the plan then states their origin."""
    torch.manual_seed(plan.settings["seed"])
    network = build(plan.network)
    carried = CarriedOver(0, 0, len(network.state_dict()), ())
    if base.weights_of is not None:
        carried = carry_over(network, base.weights_of, parse_label_table(plan.labels))
    sentence = carried.sentence(base.name) if base.weights_of else "random: training starts from scratch"
    if base.encoder is not None:
        sentence = _pretrained(network, base, base.encoder, plan)
    plan = replace(plan, carried=sentence)
    try:
        save_weights(network, work.bundle.weights)
        write_files(work.bundle.path, {"LICENSE": licence_note(plan, base.weights_of)})
        save_documents(work, plan, Outcome(plan.carried))
        write_json(work.plan_file, asdict(plan))
    except BaseException:
        shutil.rmtree(work.folder, ignore_errors=True)
        raise
    return plan


def _pretrained(network: nn.Module, base: Base, encoder: Path, plan: Plan) -> str:
    """Fill all but the readout from a pre-trained encoder; return a sentence about it."""
    inner = network.network if isinstance(network, LateralSegmenter) else network
    if not is_ours(encoder):
        matched = load_published_encoder(inner, encoder)
        rest = "new" if base.weights_of is None else f"from {base.name}"
        return f"{matched} of {len(inner.state_dict())} tensors from {encoder.name}; the rest is {rest}"
    channels = int(plan.network.get("network", plan.network)["in_channels"])
    readout = readout_of(base.network, channels, plan.window)
    matched, header = load_encoder(inner, encoder, readout=readout)
    rest = f"from {base.name}" if base.weights_of is not None else "new"
    part = "the rest" if header.prefixes else "the readout"
    return f"{matched} of {len(inner.state_dict())} tensors {header.sentence()}; {part} is {rest}"


def _trained(work: Workspace, plan: Plan, manifest: Path, folder: str) -> Outcome:
    """Run the training workflow of the bundle in the work folder; its weights become the bundle's."""
    workflow = open_bundle(
        work.bundle,
        "train",
        manifest=str(manifest),
        dataset_dir=folder,
        left_out=list(plan.left_out),
        output_dir=str(work.folder),
        ckpt_dir=str(work.checkpoints),
        scratch=str(work.scratch),
        resume=work.checkpoint(),
        device=f"$torch.device({plan.settings['device']!r})",
    )
    with work.at_work():
        try:
            workflow.execute("initialize")
            with closing(workflow.part("progress")):
                workflow.execute("run")
        except Exception as error:
            raise _in_plain_words(error, plan) from error
    best = workflow.part("best")
    shutil.move(work.folder / "model.pt", work.bundle.weights)
    epochs = workflow.part("train#trainer").state.epoch
    return Outcome(
        plan.carried, best.score, best.structures, best.epoch or epochs, epochs, cases=best.cases,
        improving=keep_history(work.folder, work.bundle.path / "docs"), curves=True,
    )  # fmt: skip


def _in_plain_words(error: Exception, plan: Plan) -> Exception:
    """An error without the wrappers of the configuration parser; for lack of memory, with advice."""
    cause = root_cause(error)
    if lacks_memory(cause):
        return MedvitError(_memory_advice(plan))
    return cause if isinstance(cause, MedvitError) else error


def _memory_advice(plan: Plan) -> str:
    batch, device = plan.settings["batch_size"], plan.settings["device"]
    size = " x ".join(map(str, plan.patch_size))
    if batch > 1:
        advice = f"--batch-size {batch // 2}"
    else:
        smaller = list(plan.patch_size)
        edges = [a for a in range(3) if a != plan.slice_axis]
        for axis, edge in zip(edges, smaller_window(plan.window), strict=True):
            smaller[axis] = edge
        advice = f"--patch-size {' '.join(map(str, smaller))}"
    what = f"{batch} window(s) of {size} voxels a step do not fit into the memory of {device}"
    return f"{what}; start anew with {advice}"


def save_documents(work: Workspace, plan: Plan, outcome: Outcome) -> None:
    """Configurations, metadata and card of the bundle in a work folder."""
    name = work.output.name
    described = metadata_section(plan, name, outcome, sha256_of(work.bundle.weights))
    contents = bundle_files(name, specification(plan, described), WORKFLOWS)
    write_files(
        work.bundle.path,
        contents | {"docs/README.md": readme(plan, name, outcome, contents["configs/train.json"])},
    )
