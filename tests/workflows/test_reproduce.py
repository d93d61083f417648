"""Every recipe: two steps on data that look like its own, and the papers' figures in its configuration."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from medvit.datasets import read_manifest
from medvit.networks import load_weights
from medvit.training.recipes import nnunet_fold
from tests.workflows.data_sets import (
    write_folds,
    write_lesions,
    write_nnunet,
    write_pet_pairs,
    write_public,
)

RECIPES = Path(__file__).parents[2] / "workflows/reproduce"


@dataclass
class Small:
    """How a recipe is made small enough for a test."""

    write: Callable[[Path], Path | None]
    overrides: dict[str, Any]


def public(name: str, splits: dict[str, list[str]], shape: Any, spacing: Any) -> Callable[[Path], Path]:
    return lambda folder: write_public(name, folder, splits, shape, spacing)


SYNAPSE = public("synapse", {"train": ["0005", "0006"], "test": ["0001"]}, (30, 28, 10), (1.6, 1.6, 5.0))
ACDC_IDS = {"train": ["patient001_frame01", "patient004_frame15"], "validation": ["patient089_frame01"]}
ACDC = public("acdc", ACDC_IDS, (40, 36, 6), (1.6, 1.6, 10.0))
BRATS_IDS = {"train": ["BRATS_001", "BRATS_002"], "validation": ["BRATS_010"]}
SEGFORMER = {
    "network_def#embed_dims": [8, 8, 8, 8],
    "network_def#num_heads": [1, 1, 1, 1],
    "network_def#depths": [1, 1, 1, 1],
    "network_def#decoder_dim": 16,
}
SWIN = {"network_def#feature_size": 12, "network_def#use_checkpoint": False, "patch_size": [64, 32, 32]}
SWIN |= {"network_def#depths": [1, 1, 1, 1], "network_def#num_heads": [1, 1, 1, 1], "warmup": 0}
DFORMER = {"network_def#embed_dim": 12, "network_def#depths": [2, 2, 2, 2], "batch_size": 1}
MAMBA = {"network_def#features": [8, 16, 32, 32, 32, 32], "patch_size": [16, 32, 32]}
RAT = {"network_def#network#width": 8, "network_def#network#num_blocks": 1, "batch_size": 2}

SMALL = {
    "segformer3d_brats2017": Small(
        public("brats2017", BRATS_IDS, (24, 26, 22), (1.0, 1.0, 1.0)),
        {
            **SEGFORMER,
            "patch_size": [16, 16, 16],
            "val_patch_size": [20, 24, 24],
            "crop": {"start": [0, 2, 2], "end": [24, 26, 22]},
        },
    ),
    "segformer3d_synapse": Small(SYNAPSE, {**SEGFORMER, "patch_size": [16, 24, 24]}),
    "segformer3d_acdc": Small(ACDC, {**SEGFORMER, "patch_size": [14, 24, 24]}),
    "swin_unetr_btcv": Small(
        public("btcv", {"train": ["0001", "0002"], "validation": ["0035"]}, (30, 28, 12), (2.0, 2.0, 4.0)),
        SWIN | {"augmentation#transforms#0#num_samples": 1},
    ),
    "swin_unetr_brats21": Small(
        lambda folder: write_folds("brats2021", folder, 2, (66, 34, 32), (1, 1, 1)), SWIN
    ),
    "cswin_unetr_picai": Small(
        write_lesions,
        {
            "patch_size": [64, 64, 16],
            "network_def#feature_size": 8,
            "network_def#depths": [1, 1, 1, 1],
            "network_def#num_heads": [2, 2, 2, 2],
            "warmup": 0,
        },
    ),
    "transunet_synapse": Small(
        SYNAPSE,
        {
            "img_size": 32,
            "batch_size": 4,
            "network_def#hidden_size": 32,
            "network_def#mlp_dim": 32,
            "network_def#num_heads": 2,
            "network_def#num_layers": 1,
            "network_def#resnet_depths": [1, 1, 1],
            "network_def#resnet_width": 32,
        },
    ),
    "cswin_unet_synapse": Small(
        SYNAPSE,
        {
            "img_size": 64,
            "batch_size": 4,
            "network_def#embed_dim": 16,
            "network_def#depths": [1, 1, 1, 1],
            "network_def#stripe_widths": [1, 2, 2, 2],
        },
    ),
    "d_former_synapse": Small(SYNAPSE, {**DFORMER, "patch_size": [16, 32, 32]}),
    "d_former_acdc": Small(ACDC, {**DFORMER, "patch_size": [16, 32, 32]}),
    "mambaclinix_abdomen": Small(
        lambda folder: write_nnunet(folder, 13, 5, (30, 28, 12), (1.6, 1.6, 5)), MAMBA
    ),
    "mambaclinix_liver_tumour": Small(
        lambda folder: write_nnunet(folder, 1, 5, (30, 28, 12), (1.6, 1.6, 5)), MAMBA
    ),
    "mambaclinix_lung": Small(lambda folder: write_nnunet(folder, 3, 5, (30, 28, 12), (1.6, 1.6, 5)), MAMBA),
    "rat_ct_denoise": Small(
        public("aapm_mayo", {"train": ["L067"], "test": ["L506"]}, (0, 0, 0), ()),
        {**RAT, "sample_size": [32, 32]},
    ),
    "rat_pet_synthesis": Small(
        lambda folder: write_pet_pairs(folder, (24, 20, 4), (4, 4, 4)), {**RAT, "sample_size": [16, 16]}
    ),
}
NAMES = sorted(path.stem for path in RECIPES.glob("*.json") if path.stem != "multi_gpu")


def recipe_of(name: str) -> dict[str, Any]:
    """What a recipe says about itself."""
    return json.loads((RECIPES / f"{name}.json").read_text())["recipe"]


def bundle_of(name: str) -> Path:
    """The folder of the bundle whose training a recipe changes."""
    return RECIPES.parents[1] / "bundles" / recipe_of(name)["bundle"]


def recipe_files(name: str) -> list[Path]:
    """The overlays of a recipe, in the order in which they are given."""
    recipe = recipe_of(name)
    below = [RECIPES / f"{recipe['on_top_of']}.json"] if "on_top_of" in recipe else []
    return [*below, RECIPES / f"{name}.json"]


def parser(name: str, **overrides: Any) -> ConfigParser:
    """A recipe over its bundle's training, not run."""
    bundle = bundle_of(name)
    config = ConfigParser(
        ConfigParser.load_config_files([bundle / "configs/train.json", *recipe_files(name)])
    )
    config["bundle_root"] = str(bundle)
    config["device"] = "$torch.device('cpu')"
    for id, value in overrides.items():
        config[id] = value
    return config


def small_workflow(
    name: str, folder: Path, manifest: Path | None, *more: str, **overrides: Any
) -> ConfigWorkflow:
    """A recipe made small, on a data set in `folder`, ready to run."""
    bundle = bundle_of(name)
    overrides = {**SMALL[name].overrides, **({"manifest": str(manifest)} if manifest else {}), **overrides}
    configs = [
        bundle / "configs/train.json",
        *recipe_files(name),
        *(bundle / "configs" / file for file in more),
    ]
    workflow = ConfigWorkflow(
        config_file=[str(path) for path in configs], workflow_type="train", bundle_root=str(bundle),
        dataset_dir=str(folder), output_dir=str(folder / "out"), logging_file=False,
        device="$torch.device('cpu')", num_workers=0, epochs=1, epoch_length=2, val_interval=1,
        # On a CPU, bfloat16 weight gradients of some convolutions are garbage.
        amp=False, **overrides,
    )  # fmt: skip
    workflow.initialize()
    return workflow


def test_every_recipe_is_tested() -> None:
    assert sorted(SMALL) == NAMES


# The others of MambaClinix differ from the first in the number of classes alone.
ALIKE = ("mambaclinix_liver_tumour", "mambaclinix_lung")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ALIKE else n for n in NAMES]
)
def test_two_steps_end_to_end(name: str, tmp_path: Path) -> None:
    small = SMALL[name]
    workflow = small_workflow(name, tmp_path, small.write(tmp_path))
    network = workflow.network_def
    before = {name: value.clone() for name, value in network.state_dict().items()}
    workflow.run()
    assert workflow.trainer.state.iteration == 2
    metrics = workflow.evaluator.state.metrics
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    moved = [name for name, value in network.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) / 3
    for weights in ("model.pt", "model_best.pt"):
        load_weights(network, tmp_path / "out" / weights)


def test_the_bundles_evaluation_scores_each_structure_of_each_case(tmp_path: Path) -> None:
    name, manifest = "segformer3d_acdc", SMALL["segformer3d_acdc"].write(tmp_path)
    small_workflow(name, tmp_path, manifest).run()
    best = tmp_path / "out/model_best.pt"
    evaluation = small_workflow(
        name, tmp_path, manifest, "evaluate.json", checkpoint=str(best), val_split="train"
    )
    evaluation.run()
    rows = (tmp_path / "out/val_mean_dice_raw.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["filename", *ACDC_IDS["train"]]
    assert [len(row.split(",")) for row in rows[1:]] == [1 + 3 + 1] * 2  # name, three structures, mean


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path) -> None:
    small = SMALL["segformer3d_acdc"]
    manifest = small.write(tmp_path)
    bundle = bundle_of("segformer3d_acdc")
    files = [bundle / "configs/train.json", *recipe_files("segformer3d_acdc"), RECIPES / "multi_gpu.json"]
    # One case a process: larger patches, so that batch norm has more than one voxel at the deepest stage.
    overrides = {**small.overrides, "patch_size": [14, 64, 64], "manifest": manifest, "dataset_dir": tmp_path}
    overrides |= {"bundle_root": bundle, "output_dir": tmp_path / "out", "num_workers": 0, "amp": False}
    overrides |= {"epochs": 1, "epoch_length": 2, "val_interval": 1}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "monai.bundle", "run", "--config_file", str([str(path) for path in files])]
    command += [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Key metric: val_mean_dice best value") == 1  # the first process logs
    assert {"model.pt", "model_best.pt"} <= {path.name for path in (tmp_path / "out").iterdir()}


# --- what the papers state


@pytest.mark.parametrize("name", [n for n in NAMES if "parameters" in recipe_of(n)])
def test_the_network_has_the_published_size(name: str) -> None:
    # MONAI's Swin transformer reads numbers while it is built, which meta tensors do not have.
    with torch.device("cpu" if name.startswith("swin") else "meta"):
        network = parser(name).get_parsed_content("network_def")
    assert sum(parameter.numel() for parameter in network.parameters()) == recipe_of(name)["parameters"]


@pytest.mark.parametrize("name", [n for n in NAMES if recipe_of(n)["split_sizes"]])
def test_the_splits_have_the_published_sizes(name: str) -> None:
    stated = recipe_of(name)["split_sizes"]
    config = parser(name)
    if name.startswith("mambaclinix"):
        fold = nnunet_fold([{"case": str(number)} for number in range(sum(stated.values()))])
        assert {split: len(cases) for split, cases in fold.items()} == stated
    else:
        assert read_manifest(config["manifest"]).split_sizes == stated
        assert {config["train_split"], config["val_split"]} <= set(stated)


# Optimiser, and learning rates at iterations of epochs that have ten.
SGD, ADAM = torch.optim.SGD, torch.optim.Adam
NNUNET = {0: 0.01, 5000: 0.01 * 0.5**0.9}
NESTEROV = {"momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}
STATED: dict[str, tuple[type, dict[str, Any], dict[int, float]]] = {
    "segformer3d_brats2017": (
        torch.optim.AdamW,
        {"weight_decay": 0.01},
        {0: 5e-6, 190: 1e-4, 200: 1e-4, 2200: 5.3e-5, 4200: 1e-4},
    ),
    "segformer3d_synapse": (SGD, NESTEROV, NNUNET),
    "segformer3d_acdc": (SGD, NESTEROV, NNUNET),
    "d_former_synapse": (SGD, NESTEROV, NNUNET),
    "d_former_acdc": (SGD, NESTEROV, NNUNET),
    "swin_unetr_btcv": (torch.optim.AdamW, {"weight_decay": 1e-5}, {0: 0, 490: 1e-4, 25250: 5e-5, 50000: 0}),
    "swin_unetr_brats21": (torch.optim.AdamW, {"weight_decay": 1e-5}, {0: 0, 490: 1e-4, 1750: 5e-5, 3000: 0}),
    "cswin_unetr_picai": (torch.optim.AdamW, {"weight_decay": 1e-5}, {0: 0, 100: 2e-4, 1300: 1e-4, 2500: 0}),
    "transunet_synapse": (SGD, {"momentum": 0.9, "weight_decay": 1e-4}, {0: 0.01, 750: 0.01 * 0.5**0.9}),
    "mambaclinix_abdomen": (ADAM, {"weight_decay": 1e-5, "eps": 1e-5}, {0: 1e-4, 5000: 1e-4 * 0.5**0.9}),
    "rat_ct_denoise": (ADAM, {"betas": (0.5, 0.999)}, {0: 2e-4, 1000: (2e-4 + 1e-6) / 2, 2000: 1e-6}),
}


def test_every_optimiser_is_tested() -> None:
    assert sorted(STATED) == [name for name in NAMES if "on_top_of" not in recipe_of(name)]


@pytest.mark.parametrize("name", sorted(STATED))
def test_optimiser_and_learning_rate_are_the_papers(name: str) -> None:
    kind, options, rates = STATED[name]
    config = parser(
        name, epoch_length=10, network={"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
    )
    schedule = config.get_parsed_content("lr_scheduler")
    optimizer = config.get_parsed_content("optimizer")
    group = optimizer.param_groups[0]
    assert type(optimizer) is kind
    assert {key: tuple(group[key]) if key == "betas" else group[key] for key in options} == options
    for iteration, rate in rates.items():
        if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
            found = schedule.base_lrs[0] * schedule.lr_lambdas[0](iteration)
        else:
            schedule.last_epoch = iteration
            found = schedule._get_closed_form_lr()[0]
        assert found == pytest.approx(rate, abs=1e-12), iteration


def test_every_recipe_says_what_it_rests_on() -> None:
    for name in NAMES:
        recipe = recipe_of(name)
        assert all(
            recipe[key]
            for key in ("bundle", "paper", "source", "expected", "hardware", "needs", "deviations")
        )
        assert recipe["expected"]["source"]


def test_the_readme_lists_every_recipe() -> None:
    text = (RECIPES / "README.md").read_text()
    for name in NAMES:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        assert recipe_of(name)["bundle"] in row
