"""`medvit train` for restorers: from pairs, or from clean images and a stated degradation, to a bundle."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from medvit.bundles import Bundle, find_bundle, open_bundle
from medvit.bundles.write import card, to_json, write_files
from medvit.datasets import read_manifest
from medvit.errors import MedvitError
from medvit.studies import safe_name, sha256_of, write_json
from medvit.training.choices import Choices
from medvit.training.history import keep_history
from medvit.training.slice_pairs import Degradation, RestorationSlices
from medvit.training.workspace import Workspace, refuse_other_settings

_SLICEWISE = "medvit.transforms.prepare_axial_slices"
_EPOCHS, _EPOCH_LENGTH = 20, 200


def find_restorer(name: str, trust: bool = False) -> Bundle | None:
    """The bundle of that name if it restores axial slices; ``None`` for any other name or bundle.

    Raises
    ------
    MedvitError
        If it restores images in a way that cannot be trained here.
    """
    try:
        bundle = find_bundle(name, trust=trust)
    except MedvitError:
        return None
    if not bundle.facts.get("restoration"):
        return None
    preprocessing = open_bundle(bundle).stated("preprocessing")
    if not isinstance(preprocessing, dict) or preprocessing.get("_target_") != _SLICEWISE:
        raise MedvitError(f"{bundle.name} does not restore axial slices, so `medvit train` cannot train it")
    return bundle


def restorer_for(degradation: str) -> Bundle:
    """The installed bundle whose preparation and limits a network by name adopts.

    Raises
    ------
    MedvitError
        If the degradation is not stated, since the kind of image of pairs would be unknown.
    """
    kind = Degradation.parse(degradation).kind
    if not kind:
        raise MedvitError(
            "a restoring network by name learns from clean images: state how they are degraded with "
            "--degrade; for pairs, name a bundle such as rat_mr_denoise"
        )
    return find_bundle("rat_ct_denoise" if kind == "low-dose" else "rat_mr_denoise")


def train_restorer(
    base: Bundle,
    manifest: str | Path,
    output: str | Path,
    choices: Choices | None = None,
    *,
    degradation: str = "",
    network: Mapping[str, Any] | None = None,
    from_scratch: bool = False,
    data: str | Path = "",
    resume: bool = False,
    console: Console | None = None,
) -> Bundle:
    """Train the network of a restoring bundle, or another one in its place; the result is a separate bundle.

    Parameters
    ----------
    base
        Bundle whose network, preparation and, unless `from_scratch`, weights are used.
    manifest
        Manifest without labels: cases with a ``target``, or clean images with `degradation`.
    output
        Folder of the new bundle.
    choices
        Choices of the user, of which epochs, epoch length, minutes, batch size, learning rate, share and seed
        of the validation, patience and device are used.
    degradation
        How clean images are degraded, see `Degradation`; empty for pairs.
    network
        Configuration of a network to train from scratch instead of the bundle's, from slices of one channel
        to the same.
    data
        Folder of the data set; the one of the manifest by default.
    resume
        Continue after the last whole epoch.

    Raises
    ------
    MedvitError
        If cases have no target and no degradation is stated, or images and targets differ in their grid.
    """
    choices, console = choices or Choices(), console or Console(stderr=True)
    work = Workspace(Path(output).absolute())
    work.open(resume)
    Degradation.parse(degradation)
    listing = read_manifest(manifest).path.absolute()
    settings = {
        "manifest": str(listing), "dataset_dir": str(Path(data).absolute() if data else listing.parent),
        "degradation": degradation, "val_fraction": choices.val_fraction, "seed": choices.seed,
        "epochs": choices.epochs or _EPOCHS, "epoch_length": choices.epoch_length or _EPOCH_LENGTH,
        "minutes": choices.minutes, "learning_rate": choices.learning_rate, "patience": choices.patience,
    }  # fmt: skip
    if choices.minutes:
        # The clock ends it; so many epochs are never taken.
        settings |= {"epochs": 10_000, "patience": 0}
    if choices.batch_size:
        settings["batch_size"] = choices.batch_size
    from_scratch = from_scratch or network is not None
    called = f"{_name_of(network)}, light" if network else f"as in {base.name}"
    plan = settings | {"network": called, "from_scratch": from_scratch}
    if resume:
        before = json.loads(work.plan_file.read_text(encoding="utf-8"))
        refuse_other_settings(work.folder, before, plan)
    else:
        work.bundle.path.mkdir(parents=True)
        _begin(base, work, settings, network)
        write_json(work.plan_file, plan)
    start = {"pretrained": "" if from_scratch else str(base.weights)}
    figures, slices = _trained(work, settings | start, str(choices.torch_device), console)
    _describe(base, work, figures, slices, degradation, called, from_scratch)
    finished = work.close()
    console.print(f"{finished.path}: {finished.facts['quality']}", soft_wrap=True)
    return finished


def _begin(
    base: Bundle, work: Workspace, settings: Mapping[str, Any], network: Mapping[str, Any] | None
) -> None:
    """The bundle in the work folder: the base's inference, and a training on slices of the manifest."""
    name = work.output.name
    located = {"bundle_root": f"$bundles.locate({safe_name(name)!r})"}
    inference = json.loads(base.config("inference").read_text(encoding="utf-8")) | located
    train = json.loads(base.config("train").read_text(encoding="utf-8")) | located
    metadata = json.loads(base.config("inference").with_name("metadata.json").read_text(encoding="utf-8"))
    if network:
        _replace_network(network, inference, train, metadata)
    _train_on_slices(train, settings)
    write_files(
        work.bundle.path,
        {
            "configs/inference.json": to_json(inference), "configs/train.json": to_json(train),
            "configs/metadata.json": to_json(metadata),
        },
    )  # fmt: skip
    for part in ("configs/logging.conf", "LICENSE"):
        if (base.path / part).is_file():
            shutil.copyfile(base.path / part, work.bundle.path / part)
    # The preparation of cases opens the inference configuration, which asks for the weights' folder alone.
    work.bundle.weights.parent.mkdir(parents=True, exist_ok=True)
    if not network:
        shutil.copyfile(base.weights, work.bundle.weights)


def _train_on_slices(train: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Turn the base's training into one on the slices of a manifest."""
    for key in ("held_out", "slice_shape", "lr_scheduler"):
        train.pop(key, None)
    # Where the data lie belongs to the call, not to the bundle.
    kept = {key: value for key, value in settings.items() if key not in ("manifest", "dataset_dir")}
    train |= kept | {
        "manifest": "dataset.json", "dataset_dir": "", "pretrained": "$@bundle_root + '/models/model.pt'",
        "val_interval": 1, "num_workers": 0, "scratch": "$@output_dir + '/samples'",
        "slices": "$training.RestorationSlices(@manifest, @dataset_dir, @bundle_root, @scratch, "
        "training.Degradation.parse(@degradation), @val_fraction, @seed)",
        "sample_shape": "$@slices.sample_shape(96)", "window": "$@slices.window",
        "schedule": {"_target_": "medvit.training.Schedule", "optimizer": "@optimizer",
                     "steps": "$@epochs * @epoch_length", "minutes": "@minutes"},
        "best": {"_target_": "medvit.training.BestWeights", "network": "$@ema.ema_model",
                 "evaluator": "@validate#evaluator", "names": ["image"], "patience": "@patience",
                 "metric": "val_psnr", "unit": "PSNR"},
        "progress": {"_target_": "medvit.training.Progress", "best": "@best", "schedule": "@schedule"},
        "history": {"_target_": "medvit.training.History", "best": "@best", "schedule": "@schedule",
                    "folder": "@output_dir"},
        "run": [
            "$@best.attach(@train#trainer)", "$@schedule.attach(@train#trainer)",
            "$@progress.attach(@train#trainer)", "$@history.attach(@train#trainer)",
            "$training.start_training(@train#trainer, @ema, @ckpt_dir, @resume, best=@best, "
            "schedule=@schedule)",
            "$@train#trainer.run()", "$training.save_weights(@best.restored(), @weights)",
        ],
    }  # fmt: skip
    # Over the last fifth of a short training, lest the average hold mostly what it began with.
    train["ema"]["momentum"] = f"$max({train['ema']['momentum']}, min(0.1, 5 / (@epochs * @epoch_length)))"
    train["train"]["handlers"] = [
        {"_target_": "medvit.training.NanGuard"},
        {"_target_": "ValidationHandler", "validator": "@validate#evaluator", "epoch_level": True,
         "interval": "@val_interval", "_disabled_": "$@slices.validation is None"},
    ]  # fmt: skip
    train["train"]["dataset"] |= {"source": "$@slices.training", "unit": 1.0}
    train["validate"]["dataset"] |= {"source": "$@slices.validation or @slices.training", "unit": 1.0}
    train["validate"]["handlers"] = []
    train["validate"]["postprocessing"] |= {"a_min": "$@window[0]", "a_max": "$@window[1]"}


def _replace_network(
    network: Mapping[str, Any], inference: dict[str, Any], train: dict[str, Any], metadata: dict[str, Any]
) -> None:
    """Another network in the configurations of a restorer, which takes slices without regions."""
    inference["network_def"] = dict(network)
    inference["preprocessing"]["window"] = None
    inference["writer"]["settings"].pop("regions", None)
    for part in ("train", "validate"):
        train[part]["dataset"]["window"] = None
    image = metadata["network_data_format"]["inputs"]["image"]
    image |= {"num_channels": 1, "channel_def": {"0": "image"}, "spatial_shape": ["n", "n"]}
    metadata["network_data_format"]["outputs"]["pred"]["spatial_shape"] = ["n", "n"]
    metadata |= {
        "description": f"{_name_of(network)} in a light setting restores axial slices.",
        "image_classes": "one channel: the degraded slice", "references": [],
    }  # fmt: skip


def _name_of(network: Mapping[str, Any]) -> str:
    return str(network["_target_"]).rpartition(".")[2]


def _trained(
    work: Workspace, settings: Mapping[str, Any], device: str, console: Console
) -> tuple[dict[str, Any], RestorationSlices]:
    """Run the workflow; the PSNR of the held-out slices before and after, and what was learned from."""
    opened = open_bundle(
        work.bundle, "train", manifest=settings["manifest"], dataset_dir=settings["dataset_dir"],
        pretrained=settings["pretrained"],
        output_dir=str(work.folder), ckpt_dir=str(work.checkpoints), scratch=str(work.scratch),
        resume=work.checkpoint(), device=f"$torch.device({device!r})",
    )  # fmt: skip
    with work.at_work():
        slices: RestorationSlices = opened.part("slices")
        for line in slices.lines():
            console.print(line, highlight=False, soft_wrap=True)
        opened.execute("initialize")
        with closing(opened.part("progress")):
            opened.execute("run")
    best = opened.part("best")
    shutil.move(work.folder / "model.pt", work.bundle.weights)
    keep_history(work.folder, work.bundle.path / "docs")
    before = None
    if best.score is not None:
        before = _psnr_before(opened.part("validate#dataset"), opened.part("window"))
    epochs = opened.part("train#trainer").state.epoch
    return {"psnr": best.score, "before": before, "epochs": epochs, "epoch": best.epoch or epochs}, slices


def _psnr_before(dataset: Any, window: tuple[float, float]) -> float:
    """Mean PSNR of the degraded validation samples, measured as the training measures the restored ones."""
    values = []
    for number in range(len(dataset)):
        for sample in dataset[number]:
            noisy, clean = ((x.clamp(*window) - window[0]) / (window[1] - window[0]) for x in (
                sample["image"][:1], sample["label"]))  # fmt: skip
            values.append(float(-10 * torch.log10((noisy - clean).square().mean().clamp(min=1e-12))))
    return float(np.mean(values))


def _describe(
    base: Bundle,
    work: Workspace,
    figures: Mapping[str, Any],
    slices: RestorationSlices,
    degradation: str,
    network: str,
    from_scratch: bool,
) -> None:
    """Metadata and card: on what it was trained, and what it reached."""
    name, date = work.output.name, datetime.datetime.now(datetime.UTC).date().isoformat()
    quality = "not measured: no case was kept apart"
    if figures["psnr"] is not None:
        quality = (
            f"PSNR {figures['psnr']:.1f} dB, {figures['before']:.1f} before, on samples of "
            f"{slices.cases['validation']} held-out case(s), by which the epoch was chosen"
        )
    start = "scratch" if from_scratch else base.name
    told = f"trained on {slices.cases['training']} case(s) of {slices.name}, from {start}"
    facts = {
        "network": network, "start": start,
        "data": f"{slices.cases['training']} case(s) of {slices.name} to train on, "
        f"{slices.cases['validation']} to validate on (drawn by patient)",
        "pairs": f"clean images, degraded: {degradation}" if degradation else "images and their targets",
        "augmentation": "slices cut at random, laid in one of eight ways",
        "trained": f"{figures['epochs']} epochs; the weights are those after epoch {figures['epoch']} "
        "(moving average)",
    }  # fmt: skip
    file = work.bundle.path / "configs" / "metadata.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    measured = {} if figures["psnr"] is None else {"psnr_validation_db": round(figures["psnr"], 2)}
    metadata |= {
        "name": name, "version": "0.1.0", "changelog": {"0.1.0": told}, "authors": "Those who trained it",
        "copyright": "Copyright of the weights: those who trained them, and of what they started from",
        "data_source": f"{slices.cases['training']} case(s) of {slices.name}", "eval_metrics": measured,
        "description": f"{metadata.get('description', base.name)} This version was {told}.",
    }  # fmt: skip
    for stale in ("zoo_name", "exports"):
        metadata["medvit"].pop(stale, None)
    metadata["medvit"] |= {
        "quality": quality, "weights_sha256": sha256_of(work.bundle.weights),
        "trained": {"from": start, "studies": slices.cases["training"], "date": date,
                    "degradation": degradation or "pairs"},
    }  # fmt: skip
    text = card(
        name,
        f"Trained with `medvit train` on {date}. Run it: `medvit run ./{name} STUDY -o OUT --trust`",
        facts,
        f"## Quality\n\n{quality}.\n\n![Loss and validation PSNR over the steps](training.png)",
        f"## Limits\n\nIt restores what resembles {slices.name}, degraded as stated above. Look at the "
        "difference image before relying on it. For research use; not a medical device, and not for "
        "diagnosis or treatment.",
    )
    write_files(work.bundle.path, {"configs/metadata.json": to_json(metadata), "docs/README.md": text})
