"""Removed patches of plain vision transformers: of slices, of volumes, and of both in one encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNETR
from safetensors.torch import load_file
from torch import nn

from medvit.errors import MedvitError
from medvit.networks import TransUNet
from medvit.networks.masked_autoencoder import Entrance
from medvit.training import Base, PretrainingChoices, find_base, pretrain_bundle
from medvit.training.encoder_file import load_encoder, readout_names
from medvit.training.network import build, fitted
from medvit.training.pretraining_patches import MaskedPatches, PatchesOfBoth
from medvit.training.pretraining_tasks import MadeFor
from tests.training.test_pretraining import write_studies
from tests.training.test_pretraining_tasks import DEEP, PLAIN, VIT, VOLUMES


@pytest.mark.parametrize(("size", "patch"), [((4, 6), (2, 3)), ((4, 6, 2), (2, 3, 1))])
def test_an_image_is_put_together_from_its_patches(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    entrance = Entrance(2, size, patch, 12)
    image = torch.rand(3, 2, *size)
    assert torch.equal(entrance.image_of(entrance.patches(image)), image)


def test_unetr_encodes_as_the_autoencoder_did() -> None:
    torch.manual_seed(0)
    task = MaskedPatches(MadeFor(DEEP, 1, (32, 32, 32)))
    network: Any = build(DEEP).eval()
    network.load_state_dict({**network.state_dict(), **task.encoder()})
    image = torch.rand(2, 1, 32, 32, 32)
    with torch.no_grad():
        tokens = task.network.entrance_of(image).tokens(image)
        wanted = task.network.norm(task.network.blocks(tokens))
        torch.testing.assert_close(network.vit(image)[0], wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize(("definition", "window"), [(PLAIN, (32, 32)), (DEEP, (32, 32, 32))])
def test_the_weights_of_a_bundle_come_back_as_they_were(
    definition: dict[str, Any], window: tuple[int, ...]
) -> None:
    task = MaskedPatches(MadeFor(definition, 1, window))
    state = build(definition).state_dict()
    given = {name: torch.rand(value.shape) for name, value in state.items()}
    fits = task.taken(given)
    assert fits.keys() == task.shared.keys()
    task.network.load_state_dict({**task.network.state_dict(), **fits})
    for name, value in task.encoder().items():
        # The three channels of TransUNet see one image: only the sum of their weights matters.
        wanted = given[name].mean(1, keepdim=True).expand_as(value) if name == "embed.weight" else given[name]
        torch.testing.assert_close(value, wanted)


@pytest.mark.parametrize(
    ("definition", "window", "axis", "kinds"),
    [
        (PLAIN, (32, 48), 2, ((32, 48), (32, 48, 12))),
        (PLAIN, (32, 48), 0, ((32, 48), (12, 32, 48))),
        (DEEP, (32, 32, 48), 1, ((32, 32, 48), (32, 48))),
    ],
)
def test_slices_and_volumes_have_windows_and_entrances_of_their_own(
    definition: dict[str, Any], window: tuple[int, ...], axis: int, kinds: tuple[tuple[int, ...], ...]
) -> None:
    task = PatchesOfBoth(MadeFor(definition, 1, window, slice_axis=axis))
    assert task.windows == kinds
    assert tuple(entrance.img_size for entrance in task.network.entrances) == kinds
    assert [len(e.grid) for e in task.network.entrances] == [len(edges) for edges in kinds]
    assert not any(name.startswith("entrances.1") for name in task.shared)


@pytest.mark.parametrize(
    ("definition", "network"),
    [
        (PLAIN, lambda classes, size: TransUNet(**VIT, out_channels=classes, img_size=size[:2])),
        (DEEP, lambda classes, size: UNETR(out_channels=classes, img_size=size, **VOLUMES)),
    ],
)
def test_slices_and_volumes_train_the_encoder_of_either(
    definition: dict[str, Any], network: Any, tmp_path: Path
) -> None:
    axes = 2 if definition is PLAIN else 3
    base = Base("plain", definition, (32,) * axes, axes == 2, lateral=False)
    path = pretrain_bundle(
        base, [str(write_studies(tmp_path / "in"))], tmp_path / "e.safetensors",
        PretrainingChoices(task="uni4eye", steps=4, batch_size=2, device="cpu"),
    )  # fmt: skip
    own = network(4, (32, 32, 32))
    readout = readout_names(own, network(5, (32, 32, 32)))
    matched, header = load_encoder(own, path, readout=readout)
    state, after = load_file(path), own.state_dict()
    assert matched == len(state) and all(torch.equal(after[name], value) for name, value in state.items())
    assert "masked patches of slices and volumes, 75% of cells of 16 voxels, 4 steps" in header.sentence()
    wider = network(4, (48, 32, 32))  # whose grid of positions is another
    load_encoder(wider, path, readout=readout)
    names = [name for name in state if "position" in name]
    assert len(names) == 1 and wider.state_dict()[names[0]].std() > 0.1


def test_the_steps_of_slices_and_of_volumes_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    loss = PatchesOfBoth.loss

    def watched(self: PatchesOfBoth, windows: Any, generator: torch.Generator) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(windows.target.ndim)
        return loss(self, windows, generator)

    monkeypatch.setattr(PatchesOfBoth, "loss", watched)
    base = Base("plain", PLAIN, (32, 32), slicewise=True, lateral=False)
    inputs = write_studies(tmp_path / "in")
    choices = PretrainingChoices(task="uni4eye", steps=4, batch_size=1, device="cpu")
    pretrain_bundle(base, [str(inputs)], tmp_path / "e.safetensors", choices)
    assert seen == [4, 5, 4, 5]


def test_studies_of_a_slice_alone_have_no_volumes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(5):
        image = rng.normal(100, 10, (34, 34, 1)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"slice_{number}.nii.gz")
    base = Base("plain", PLAIN, (32, 32), slicewise=True, lateral=False)
    choices = PretrainingChoices(task="uni4eye", steps=1, device="cpu")
    with pytest.raises(MedvitError, match="no study has 3 slices or more"):
        pretrain_bundle(base, [str(tmp_path)], tmp_path / "e.safetensors", choices)
    choices = PretrainingChoices(task="mae", steps=1, batch_size=2, device="cpu")
    assert pretrain_bundle(base, [str(tmp_path)], tmp_path / "e.safetensors", choices).is_file()


@pytest.mark.parametrize("name", ["ViT", "UNETR"])
def test_networks_by_name_take_removed_patches(name: str) -> None:
    base = find_base(name, size="tiny")
    task = MaskedPatches(MadeFor(base.network, 1, base.window))
    own: nn.Module = build(fitted(base.network, 1, 2, base.window))
    given, state = task.encoder(), own.state_dict()
    assert {name: value.shape for name, value in given.items()} == {n: state[n].shape for n in given}
    assert sum(v.numel() for v in given.values()) > 0.3 * sum(v.numel() for v in state.values())


@pytest.mark.parametrize(
    ("definition", "window", "words"),
    [
        ({"_target_": "medvit.networks.SegFormer3D"}, (64, 64, 64), "plain vision transformer"),
        ({**DEEP, "qkv_bias": False}, (32, 32, 32), "qkv_bias true"),
        (PLAIN, (40, 32), "multiples of 16"),
        ({**DEEP, "hidden_size": 32}, (32, 32, 32), "multiples of 6, not 32"),
    ],
)
def test_what_has_no_plain_transformer_is_refused(
    definition: dict[str, Any], window: tuple[int, ...], words: str
) -> None:
    with pytest.raises(MedvitError, match=words):
        MaskedPatches(MadeFor({"in_channels": 1, "out_channels": 4, **definition}, 1, window))
