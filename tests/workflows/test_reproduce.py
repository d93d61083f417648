"""Every recipe: two steps on data that look like its own, and the papers' figures in its configuration."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from medvit.engines import load_weights
from tests.workflows.data_sets import write_folds, write_nnunet, write_pet_pairs, write_public

RECIPES = Path(__file__).parents[2] / "workflows/reproduce"


@dataclass
class Small:
    """How a recipe is made small enough for a test."""

    write: Callable[[Path], Path | None]
    overrides: dict[str, Any] = field(default_factory=dict)
    epoch_length: int = 2


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
        SWIN,
    ),
    "swin_unetr_brats21": Small(
        lambda folder: write_folds("brats2021", folder, 2, (66, 34, 32), (1, 1, 1)), SWIN
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
NAMES = sorted(path.stem for path in RECIPES.glob("*.json"))


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


def test_every_recipe_is_tested() -> None:
    assert sorted(SMALL) == NAMES


@pytest.fixture(autouse=True)
def cpu(request):
    t = time.process_time()
    yield
    print("\nCPU", request.node.name, round(time.process_time() - t, 1))


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_end_to_end(name: str, tmp_path: Path) -> None:
    small = SMALL[name]
    manifest = small.write(tmp_path)
    overrides = {**small.overrides, **({"manifest": str(manifest)} if manifest else {})}
    bundle = bundle_of(name)
    workflow = ConfigWorkflow(
        config_file=[str(path) for path in (bundle / "configs/train.json", *recipe_files(name))],
        workflow_type="train", bundle_root=str(bundle), dataset_dir=str(tmp_path),
        output_dir=str(tmp_path / "out"), logging_file=False, device="$torch.device('cpu')", num_workers=0,
        epochs=1, epoch_length=2, val_interval=1, amp=False, **overrides,
    )  # fmt: skip
    workflow.initialize()
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
