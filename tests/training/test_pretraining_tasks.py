"""Other tasks of pre-training than masked cells, and networks that start from their results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medvit.bundles import Bundle
from medvit.errors import MedvitError
from medvit.networks import SwinUNETR, TransUNet
from medvit.networks.swin_pretraining import turn
from medvit.training import PretrainingChoices, pretrain_bundle
from medvit.training.encoder_file import load_encoder, readout_names
from medvit.training.masking import MaskedWindows
from medvit.training.pretraining_patches import MaskedPatches, PatchesOfBoth
from medvit.training.pretraining_tasks import MadeFor, MaskedCells, SwinTasks
from tests.label.phantoms import make_bundle
from tests.training.test_pretraining import write_studies

VIT: dict[str, Any] = {
    "in_channels": 1, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2, "num_layers": 2,
    "resnet_depths": None, "decoder_channels": [16, 8, 8, 8], "dropout": 0.0,
}  # fmt: skip
SWIN: dict[str, Any] = {
    "in_channels": 1,
    "feature_size": 12,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
}


PLAIN = {"_target_": "medvit.networks.TransUNet", "out_channels": 4, "img_size": 32, **VIT}
VOLUMES: dict[str, Any] = {
    "in_channels": 1, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2, "feature_size": 4, "qkv_bias": True,
}  # fmt: skip
DEEP = {"_target_": "monai.networks.nets.UNETR", "out_channels": 4, "img_size": [32, 32, 32], **VOLUMES}


def bundle_of(
    folder: Path, network: torch.nn.Module, target: str, arguments: dict[str, Any], **inferer: Any
) -> Bundle:
    root = make_bundle(folder / "small", state=network.state_dict())
    file = root / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"] = {"_target_": f"medvit.networks.{target}", "out_channels": 4, **arguments}
    scale = {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 1, "upper": 99}
    config["preprocessing"]["transforms"].append({**scale, "b_min": 0.0, "b_max": 1.0})
    config["inferer"] |= inferer
    file.write_text(json.dumps(config))
    return Bundle(root)


def test_a_plain_vision_transformer_starts_from_removed_patches(tmp_path: Path) -> None:
    network = TransUNet(**VIT, out_channels=4, img_size=32)
    base = bundle_of(
        tmp_path, network, "TransUNet", VIT | {"img_size": 32},
        _target_="medvit.inference.SliceInferer", roi_size=[32, 32],
    )  # fmt: skip
    path = pretrain_bundle(
        base, [str(write_studies(tmp_path / "in"))], tmp_path / "e.safetensors",
        PretrainingChoices(task="mae", steps=6, batch_size=2, start="scratch", device="cpu"),
    )  # fmt: skip
    readout = readout_names(network, TransUNet(**VIT, out_channels=5, img_size=32))
    matched, header = load_encoder(network, path, readout=readout)
    state, own = load_file(path), network.state_dict()
    assert matched == len(state) and {name.split(".")[0] for name in state} == {
        "embed",
        "position",
        "blocks",
        "norm",
    }
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert "masked patches, 75% of cells of 16 voxels" in header.sentence()
    # A window of another size has another grid of positions.
    wider = TransUNet(**VIT, out_channels=4, img_size=(48, 32))
    load_encoder(wider, path, readout=readout)
    assert wider.position.shape == (1, 6, 24) and wider.position.std() > 0.1


def test_tokens_are_those_of_the_autoencoder() -> None:
    definition = {"_target_": "medvit.networks.TransUNet", "out_channels": 4, "img_size": 32, **VIT}
    task = MaskedPatches(MadeFor(definition, 1, (32, 32)))
    network = TransUNet(**VIT, out_channels=4, img_size=32).eval()
    network.load_state_dict({**network.state_dict(), **task.encoder()})
    image = torch.rand(2, 1, 32, 32)
    entrance = task.network.entrance_of(image)
    tokens = network.embed(image.expand(-1, 3, -1, -1)).flatten(2).mT + network.position
    torch.testing.assert_close(tokens, entrance.tokens(image))


def test_what_is_shown_of_patches_is_the_image_where_they_are_predicted_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    definition = {"_target_": "medvit.networks.TransUNet", "out_channels": 4, "img_size": 32, **VIT}
    task = MaskedPatches(MadeFor(definition, 1, (32, 48), 0.5))
    image = torch.rand(2, 1, 32, 48)
    patches = task.network.entrance_of(image).patches(image)
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    mask = torch.zeros(2, 6)
    mask[:, 1] = 1
    right = (patches - mean) / (variance + 1e-6).sqrt()
    monkeypatch.setattr(task, "_predicted", lambda *given: (torch.zeros(()), right, mask))
    shown, prediction = task.shown(MaskedWindows(image, image, image > 2))
    torch.testing.assert_close(prediction, image)
    removed = torch.zeros(32, 48, dtype=torch.bool)
    removed[:16, 16:32] = True
    assert torch.equal(shown.mask[0, 0], removed)


def test_swin_unetr_starts_from_its_three_tasks(tmp_path: Path) -> None:
    network = SwinUNETR(**SWIN, out_channels=4)
    base = bundle_of(tmp_path, network, "SwinUNETR", SWIN, roi_size=[32, 32, 64])
    path = pretrain_bundle(
        base, [str(write_studies(tmp_path / "in", count=5))], tmp_path / "e.safetensors",
        PretrainingChoices(task="swin", steps=2, batch_size=2, device="cpu"),
    )  # fmt: skip
    other = SwinUNETR(**SWIN, out_channels=4)
    kept = {name: v.clone() for name, v in other.state_dict().items() if not name.startswith("swinViT.")}
    matched, header = load_encoder(
        other, path, readout=readout_names(other, SwinUNETR(**SWIN, out_channels=5))
    )
    state, own = load_file(path), other.state_dict()
    assert matched == len(state) == sum(name.startswith("swinViT.") for name in own)
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert all(torch.equal(own[name], value) for name, value in kept.items())
    assert "rotation, contrast and inpainting, 2 steps" in header.sentence()


def test_the_views_are_turned_by_what_the_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    task = SwinTasks(MadeFor({"_target_": "medvit.networks.SwinUNETR", **SWIN}, 1, (32, 32, 64)))
    target = torch.rand(2, 1, 32, 32, 64)
    told: list[torch.Tensor] = []

    def criterion(rotation: Any, turns: Any, first: Any, second: Any, rebuilt: Any, turned: Any) -> Any:
        told.extend((turns, turned, first, second))
        return type("Losses", (), {"total": rotation.sum()})

    monkeypatch.setattr(task, "criterion", criterion)
    with torch.no_grad():
        task.loss(MaskedWindows(target, target, target > 2), torch.Generator().manual_seed(0))
    turns, turned, first, second = told
    assert turns.shape == (4,) and first.shape == second.shape == (2, 512)
    assert torch.equal(turned, turn(torch.cat([target, target]), turns))


@pytest.mark.parametrize(
    ("kind", "definition", "window", "words"),
    [
        (SwinTasks, {"_target_": "medvit.networks.SegFormer3D"}, (64, 64, 64), "bare Swin UNETR"),
        (SwinTasks, {"_target_": "medvit.networks.SwinUNETR"}, (64, 32, 64), "two equal"),
        (SwinTasks, {"_target_": "medvit.networks.SwinUNETR"}, (32, 32, 32), "one of 64 or more"),
        (MaskedPatches, {"_target_": "medvit.networks.TransUNet"}, (32, 32), "plain vision transformer"),
        (MaskedPatches, PLAIN, (16, 32), r"16 x 32 voxels have 2 patch\(es\), .* 0.75 leaves none to see"),
        (PatchesOfBoth, DEEP, (16, 16, 64), r"16 x 16 voxels have 1 patch\(es\)"),
        (MaskedCells, PLAIN, (8, 8), r"8 x 8 voxels have 1 cell\(s\), .* 0.6 is all or none"),
    ],
)  # fmt: skip
def test_networks_and_windows_that_do_not_fit_a_task_are_refused(
    kind: Any, definition: dict[str, Any], window: tuple[int, ...], words: str
) -> None:
    with pytest.raises(MedvitError, match=words):
        kind(MadeFor(definition, 1, window))
