"""The file of a pre-trained encoder: every entry fits or none is taken, and what it says of its origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medvit.errors import WeightsError
from medvit.training.encoder_file import (
    PretrainingHeader,
    load_encoder,
    read_encoder,
    readout_names,
    save_encoder,
)

HEADER = PretrainingHeader(
    network={"in_channels": 1}, base="segformer3d_brain", start="weights", task="masked", mask_ratio=0.6,
    cell=8, window=[32, 32, 32], spacing=[1.0, 1.0, 1.0], modality="MR", studies=12, patients=10,
    studies_sha256="ab" * 32, steps=300, seed=1, medvit="0.0", loss={"validation": [(300, 0.5)]},
)  # fmt: skip


def network(channels: int = 1, classes: int = 2) -> nn.Sequential:
    torch.manual_seed(channels + classes)
    return nn.Sequential(
        nn.Conv3d(channels, 4, 3), nn.InstanceNorm3d(4, affine=True), nn.Conv3d(4, classes, 1)
    )


READOUT = {"2.weight", "2.bias"}


def encoder_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in net.state_dict().items() if name not in READOUT}


def test_the_readout_is_what_depends_on_the_classes() -> None:
    assert readout_names(network(), network(classes=3)) == READOUT


def test_header_and_tensors_come_back(tmp_path: Path) -> None:
    source = network()
    save_encoder(tmp_path / "e.safetensors", encoder_of(source), HEADER)
    tensors, header = read_encoder(tmp_path / "e.safetensors")
    assert header.base == HEADER.base and header.loss == {"validation": [[300, 0.5]]}
    assert set(tensors) == set(encoder_of(source))
    assert torch.equal(tensors["0.weight"], source[0].weight)


def test_all_but_the_readout_is_filled(tmp_path: Path) -> None:
    source, target = network(), network(classes=5)
    readout = target[2].weight.detach().clone()
    save_encoder(tmp_path / "e.safetensors", encoder_of(source), HEADER)
    assert load_encoder(target, tmp_path / "e.safetensors", readout=READOUT)[0] == 4
    assert torch.equal(target[0].weight, source[0].weight) and torch.equal(target[2].weight, readout)


def test_a_first_layer_of_one_channel_is_spread_over_several(tmp_path: Path) -> None:
    source, target = network(), network(channels=3)
    save_encoder(tmp_path / "e.safetensors", encoder_of(source), HEADER)
    load_encoder(target, tmp_path / "e.safetensors", readout=READOUT)
    image = torch.rand(1, 1, 4, 4, 4)
    # Three equal channels answer as one did.
    torch.testing.assert_close(target[0](image.expand(-1, 3, -1, -1, -1)), source[0](image))


@pytest.mark.parametrize("channels", [2, 3, 4, 6])
def test_a_layer_that_repeats_its_image_channel_is_spread_by_the_sum_of_its_weights(
    channels: int, tmp_path: Path
) -> None:
    source, target = (
        network(channels=3),
        network(channels=channels),
    )  # three inputs for one image, as TransUNet
    save_encoder(tmp_path / "e.safetensors", encoder_of(source), HEADER)
    load_encoder(target, tmp_path / "e.safetensors", readout=READOUT)
    image = torch.rand(1, 1, 4, 4, 4)
    repeated, several = (image.expand(-1, n, -1, -1, -1) for n in (3, channels))
    torch.testing.assert_close(target[0](several), source[0](repeated))


def test_an_encoder_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    state = encoder_of(network())
    changed = {**state, "9.weight": torch.zeros(1)}
    del changed["0.bias"]
    changed["1.weight"] = torch.zeros(7)
    save_encoder(tmp_path / "e.safetensors", changed, HEADER)
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(WeightsError, match=r"missing: 0\.bias; left over: 9\.weight; wrong shape: 1\.weight"):
        load_encoder(target, tmp_path / "e.safetensors", readout=READOUT)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    # Two channels cannot be spread over three.
    save_encoder(tmp_path / "e.safetensors", encoder_of(network(channels=2)), HEADER)
    with pytest.raises(WeightsError, match=r"wrong shape: 0\.weight"):
        load_encoder(network(channels=3), tmp_path / "e.safetensors", readout=READOUT)


def test_only_the_named_part_of_a_network_may_be_in_the_file(tmp_path: Path) -> None:
    source, target = network(), network(classes=5)
    part = {name: value for name, value in source.state_dict().items() if name.startswith("0.")}
    save_encoder(tmp_path / "e.safetensors", part, replace(HEADER, prefixes=["0."]))
    assert load_encoder(target, tmp_path / "e.safetensors", readout=READOUT)[0] == 2
    assert torch.equal(target[0].weight, source[0].weight)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors: no such file"):
        read_encoder(tmp_path / "none.safetensors")
    broken, foreign = tmp_path / "broken.safetensors", tmp_path / "foreign.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a valid safetensors file"):
        read_encoder(broken)
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(WeightsError, match="was not written by medvit pretrain"):
        read_encoder(foreign)
    save_file({"a": torch.zeros(1)}, foreign, metadata={"medvit_pretraining": '{"base": "x"}'})
    with pytest.raises(WeightsError, match="its header cannot be read"):
        read_encoder(foreign)


def test_the_sentence_for_the_card() -> None:
    assert HEADER.sentence() == (
        "pre-trained without labels on 12 studies of 10 patients (masked, 60% of cells of 8 voxels, "
        "300 steps, from the weights of segformer3d_brain)"
    )
    plain = replace(HEADER, start="scratch", cell=0, task="rotation")
    assert plain.sentence().endswith("(rotation, 300 steps, from scratch)")
