"""Configurations told from state dicts are those that the authors' classes were built with."""

from __future__ import annotations

import json

import pytest
import torch

from medvit import networks
from medvit.bundles.convert import deduce, parse_assignments, read_plan
from medvit.errors import MedvitError, WeightsError
from tests.networks.goldens import FOLDER, Golden, adapters
from tests.networks.parity_rule import fill_state

# What each golden's class was told and its state dict does not tell.
GIVEN = {
    "segformer3d_brats": {"attention_scale": "head_dim"},
    "segformer3d_small": {"attention_scale": "head_dim", "num_heads": [2, 4, 4, 6]},
    "swin_unetr_small": {"patch_merging": "current"},
    "transunet_small": {"num_heads": 4},
    "transunet_vit_small": {"num_heads": 4, "in_channels": 3},
    "d_former_small": {"group_size": [2, 8, 8], "num_heads": [2, 3, 4, 6]},
    "mambaclinix_small_ds": {"strides": [1, 2, 2, 2]},
    "xlstm_unet_enc2d": {},
    "xlstm_unet_enc3d_small_ds": {},
    "xlstm_unet_bot2d_small": {"strides": [1, 2, 2, 2, 2]},
    "paratranscnn_small": {"num_heads": 4, "in_channels": 3},
}


def golden(name: str) -> Golden:
    return Golden(json.loads((FOLDER / f"{name}.json").read_text()), {})


@pytest.mark.parametrize("name", GIVEN)
def test_the_shapes_are_those_of_the_authors_arguments(name: str) -> None:
    manifest = golden(name).manifest
    config = manifest["config"]
    shapes = {entry: torch.empty(shape, device="meta") for entry, shape in manifest["state"].items()}
    found = deduce(manifest["network"], shapes)
    given = dict(GIVEN[name])
    if manifest["network"] == "xlstm_unet":
        given = {"strides": config["strides"], "img_size": config.get("input_size"), **given}
    found.complete(given)
    assert found.needs == {}
    # Rates of stochastic depth are numbers, which meta tensors have none of.
    numbers = manifest["network"] in ("swin_unetr", "mambaclinix")
    with torch.device("cpu" if numbers else "meta"):
        theirs = adapters()[golden(name).key].build(golden(name)).state_dict()
        ours = getattr(networks, found.target)(**found.arguments).state_dict()
    heads = tuple(f"{part}.{i}." for part in ("heads", "decoder.heads") for i in range(1, 9))
    expected = {entry: v.shape for entry, v in theirs.items() if not entry.startswith(heads)}
    assert {entry: v.shape for entry, v in ours.items()} == expected


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("R2T-MIL", "bags of patch features"),
        ("rat", "map of their regions"),
        ("U-Net", "there are SegFormer3D, SwinUNETR"),
        ("TransUNet", "not a checkpoint of TransUNet in its authors' layout"),
    ],
)
def test_what_makes_no_bundle_is_refused(network: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        deduce(network, {"weight": torch.zeros(1)})


def test_the_published_width_of_a_head_gives_their_number() -> None:
    state = fill_state(golden("segformer3d_brats_2024").manifest["state"])
    found = deduce("segformer3d", state)
    assert found.arguments["num_heads"] == [1, 2, 5, 8]
    assert list(found.needs) == ["attention_scale"]


def test_a_checkpoint_without_a_plan_tells_nothing() -> None:
    assert read_plan({"state_dict": {}}).strides is None
    assert read_plan({"init_args": {"plans": {}, "configuration": "2d"}}).labels is None


def test_regions_of_a_plan_are_no_labels() -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    assert read_plan({"init_args": {"plans": {}, "dataset_json": {"labels": labels}}}).labels is None


def test_an_assignment_without_a_value_is_refused() -> None:
    with pytest.raises(MedvitError, match="KEY=VALUE"):
        parse_assignments(["strides"])
