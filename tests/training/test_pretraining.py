"""Pre-training without labels: what is masked and refused, what the file holds, that it carries over."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from medvit.bundles import Bundle
from medvit.cli.app import app
from medvit.errors import MedvitError, WeightsError
from medvit.networks import CSwinUNETR, SegFormer3D
from medvit.training import PretrainingChoices, find_base, pretrain_bundle, pretraining
from medvit.training.encoder_file import load_encoder, read_encoder, readout_names
from medvit.training.masking import MaskedWindows, WindowSampler, masked_l1
from medvit.training.recipes import start_from
from tests.label.phantoms import make_bundle

SMALL = {
    "in_channels": 1, "embed_dims": [8, 8, 16, 16], "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1],
    "mlp_ratios": [2, 2, 2, 2], "decoder_dim": 8, "head": "detail", "norm": "group",
}  # fmt: skip
CHOICES = PretrainingChoices(steps=6, batch_size=1, patch_size=(32, 32, 32), cell=8, seed=1)


def write_studies(folder: Path, count: int = 6, size: int = 34) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    grid = np.indices((size, size, size)) - size / 2
    for number in range(count):
        ball = 400.0 * (np.sqrt((grid**2).sum(0)) < 8 + number)
        image = (ball + rng.normal(100, 10, ball.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.diag([2, 2, 2, 1])), folder / f"head_{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose network is a small SegFormer3D."""
    torch.manual_seed(0)
    network = SegFormer3D(**SMALL, out_channels=4)
    folder = make_bundle(tmp_path_factory.mktemp("bundle") / "small", state=network.state_dict())
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"] = {"_target_": "medvit.networks.SegFormer3D", "out_channels": 4, **SMALL}
    scale = {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 1, "upper": 99}
    config["preprocessing"]["transforms"].append({**scale, "b_min": 0.0, "b_max": 1.0})
    file.write_text(json.dumps(config))
    return Bundle(folder)


@pytest.fixture(scope="module")
def encoder(base: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    return pretrain_bundle(base, [str(write_studies(folder / "in"))], folder / "e.safetensors", CHOICES)


def test_cells_are_masked_whole_and_by_their_share() -> None:
    volume = torch.rand(1, 40, 40, 40)
    windows = WindowSampler([volume], (32, 32, 32), cell=8, mask_ratio=0.25, seed=3).batch(0, 2)
    cells = windows.mask.unfold(2, 8, 8).unfold(3, 8, 8).unfold(4, 8, 8).flatten(5).float().mean(-1)
    assert set(cells.unique().tolist()) == {0.0, 1.0}
    assert cells.mean() == 0.25
    changed = windows.masked != windows.target
    assert torch.equal(changed, windows.mask)


def test_what_lies_outside_the_field_of_view_does_not_count() -> None:
    volume = torch.zeros(1, 32, 32, 32)
    volume[:, :16] = torch.rand(1, 16, 32, 32)
    sampler = WindowSampler([volume], (32, 32, 32), cell=8, mask_ratio=0.6)
    mask = sampler.batch(0, 1).mask
    assert mask.sum() in (mask[:, :, :16].sum(), mask[:, :, 16:].sum()) and mask.any()


def test_small_volumes_are_padded_and_their_padding_never_counts() -> None:
    windows = WindowSampler([torch.rand(1, 16, 32, 32)], (32, 32, 32), cell=8, mask_ratio=0.6).batch(0, 1)
    assert windows.target.shape == (1, 1, 32, 32, 32)
    assert not windows.mask[:, :, :8].any() and not windows.mask[:, :, 24:].any()


def test_a_step_always_has_the_same_windows() -> None:
    volumes = [torch.rand(1, 40, 36, 34) for _ in range(3)]
    first, again = (WindowSampler(volumes, (32, 32, 32), seed=5).batch(7, 2) for _ in range(2))
    other = WindowSampler(volumes, (32, 32, 32), seed=5).batch(8, 2)
    assert torch.equal(first.masked, again.masked) and not torch.equal(first.masked, other.masked)


def test_slices_for_networks_over_slices() -> None:
    windows = WindowSampler([torch.rand(1, 40, 36, 5)], (32, 32), cell=8).batch(0, 3)
    assert windows.target.shape == (3, 1, 32, 32)


def test_the_error_counts_masked_voxels_alone() -> None:
    target = torch.zeros(1, 1, 2, 2, 2)
    mask = torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    mask[..., 0] = True
    prediction = target + 3.0
    prediction[..., 1] = 100.0
    assert masked_l1(prediction, MaskedWindows(target, target, mask)) == 3.0
    assert masked_l1(prediction, MaskedWindows(target, target, mask & False)) == 0.0


def test_the_file_says_what_it_is_and_of_whom_it_does_not(encoder: Path) -> None:
    state, header = read_encoder(encoder)
    assert (header.base, header.studies, header.patients, header.steps) == ("small", 6, 6, 6)
    assert header.loss["training"] and header.loss["watched"]
    raw = encoder.read_bytes()
    text = encoder.with_suffix(".html").read_text()
    for told in ("head_", str(encoder.parent)):
        assert told.encode() not in raw and told not in text
    assert text.count("data:image/png") == 2
    assert not encoder.with_name("e.safetensors.pretraining").exists()
    assert not any(name.startswith("network.") for name in state)


def test_a_training_starts_from_it(base: Bundle, encoder: Path) -> None:
    found = find_base(str(base.path), pretrained=encoder, trust=True)
    assert found.encoder == encoder
    network, wider = (SegFormer3D(**SMALL, out_channels=n) for n in (4, 5))
    readout = readout_names(network, wider)
    before = {name: network.state_dict()[name].clone() for name in readout}
    matched, header = load_encoder(network, encoder, readout=readout)
    assert (
        matched == len(network.state_dict()) - len(readout) and "6 studies of 6 patients" in header.sentence()
    )
    state = load_file(encoder)
    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert all(torch.equal(own[name], value) for name, value in before.items())


def test_one_channel_is_spread_over_several(encoder: Path) -> None:
    network, wider = (SegFormer3D(**SMALL | {"in_channels": 2}, out_channels=n) for n in (4, 5))
    load_encoder(network, encoder, readout=readout_names(network, wider))
    state = load_file(encoder)
    name = next(n for n, v in network.state_dict().items() if n in state and v.shape != state[n].shape)
    both = network.state_dict()[name]
    torch.testing.assert_close(both.unflatten(1, (2, -1)).sum(1), state[name])


def test_another_network_is_refused_and_stays_as_it_was(encoder: Path, tmp_path: Path) -> None:
    network, wider = (SegFormer3D(**SMALL | {"decoder_dim": 16}, out_channels=n) for n in (4, 5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=r"does not fit this one; .*wrong shape"):
        load_encoder(network, encoder, readout=readout_names(network, wider))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="was not written by medvit pretrain"):
        read_encoder(tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="not a valid safetensors file"):
        read_encoder(tmp_path / "broken.safetensors")


def test_what_is_nothing_to_learn_from_is_left_out_and_named(
    base: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_studies(tmp_path / "in", count=4)
    for name, values in {
        "drawn": np.arange(34**3).reshape((34,) * 3) % 5,
        "flat": np.full((34,) * 3, 7),
    }.items():
        nib.save(nib.Nifti1Image(values.astype(np.int16), np.diag([2, 2, 2, 1])), folder / f"{name}.nii.gz")
    (folder / "copy.nii.gz").write_bytes((folder / "head_0.nii.gz").read_bytes())
    with pytest.raises(MedvitError, match="4 usable studies are too few"):
        pretrain_bundle(base, [str(folder)], tmp_path / "e.safetensors", CHOICES)
    said = capsys.readouterr().err
    assert "looks like a label map: 5 whole values" in said
    assert "is constant (7 everywhere)" in said
    assert "the same image as another study" in said
    assert not list(tmp_path.glob("e.safetensors*"))


def test_interrupted_it_goes_on_where_it_was(
    base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [str(write_studies(tmp_path / "in"))]
    whole = pretrain_bundle(base, inputs, tmp_path / "whole.safetensors", CHOICES)
    steps = pretraining._Run._take_step

    def interrupted(self: pretraining._Run, optimiser: torch.optim.Optimizer) -> float:
        if self.step == 3:
            raise KeyboardInterrupt
        return steps(self, optimiser)

    path = tmp_path / "parts.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(pretraining._Run, "_take_step", interrupted)
        with pytest.raises(MedvitError, match="interrupted after 3 steps"):
            pretrain_bundle(base, inputs, path, CHOICES)
    with pytest.raises(MedvitError, match="continue it with --resume"):
        pretrain_bundle(base, inputs, path, CHOICES)
    with pytest.raises(MedvitError, match="other settings"):
        pretrain_bundle(base, inputs, path, PretrainingChoices(mask_ratio=0.5), resume=True)
    pretrain_bundle(base, inputs, path, CHOICES, resume=True)
    one, other = load_file(whole), load_file(path)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_pre_training_that_was_killed_before_its_first_step_says_what_to_remove(
    base: Bundle, tmp_path: Path
) -> None:
    work = tmp_path / "e.safetensors.pretraining"
    with pytest.raises(MedvitError, match="to resume; start one without --resume"):
        pretrain_bundle(base, [], tmp_path / "e.safetensors", CHOICES, resume=True)
    work.mkdir()
    with pytest.raises(MedvitError, match="to resume; remove it and start one without --resume"):
        pretrain_bundle(base, [], tmp_path / "e.safetensors", CHOICES, resume=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask_ratio": 1.0}, "--mask-ratio"),
        ({"cell": 1}, "--cell"),
        ({"task": "mae", "cell": 4}, "--cell does not apply to --task mae"),
        ({"task": "swin", "mask_ratio": 0.5}, "--mask-ratio does not apply to --task swin"),
        ({"learning_rate": 0.0}, "--learning-rate must be greater than 0"),
        ({"patch_size": (32, 0, 32)}, "--patch-size must be greater than 0"),
        ({"steps": 0}, "--steps must be greater than 0"),
        ({"watch_fraction": 1.0}, "watch_fraction must lie in"),
        ({"start": "x"}, "--from"),
        ({"task": "x"}, "--task must be one of masked, mae, uni4eye, swin"),
        ({"task": "swin", "batch_size": 1}, "--batch-size must be 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(MedvitError, match=words):
        PretrainingChoices(**settings)


def test_the_command_pre_trains(base: Bundle, tmp_path: Path) -> None:
    words = [
        "pretrain",
        str(base.path),
        str(write_studies(tmp_path / "in")),
        "-o",
        str(tmp_path / "e.safetensors"),
    ]
    words += ["--steps", "1", "--patch-size", "32", "32", "32", "--from", "scratch", "--trust"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert read_encoder(tmp_path / "e.safetensors")[1].start == "scratch"


def test_networks_that_restore_images_are_sent_to_train(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    words = ["pretrain", "HAT", str(tmp_path), "-o", str(tmp_path / "e.safetensors")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and "use medvit train HAT --degrade" in result.output + str(result.exception)


def test_a_recipe_gives_the_network_and_its_training_starts_from_the_encoder(
    base: Bundle, tmp_path: Path
) -> None:
    definition = {
        "_target_": "medvit.networks.CSwinUNETR", "in_channels": 3, "out_channels": 2, "feature_size": 4,
        "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2], "stripe_widths": [1, 1, 1, 1],
        "strides": [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]], "thick_slices": True,
    }  # fmt: skip
    scaling = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}
    stated = {"network_def": definition, "patch_size": [64, 64, 8], "spacing": [2.0, 2.0, 4.0]}
    recipe = tmp_path / "prostate.json"
    recipe.write_text(json.dumps(stated | {"window": scaling}))
    inputs = [str(write_studies(tmp_path / "in"))]
    path = tmp_path / "e.safetensors"
    choices = PretrainingChoices(steps=2, batch_size=1, cell=4, recipe=str(recipe))
    seen: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        batch = WindowSampler.batch

        def watched(self: WindowSampler, step: int, size: int) -> MaskedWindows:
            seen.append(torch.cat([volume.flatten() for volume in self.volumes]).float())
            return batch(self, step, size)

        patch.setattr(WindowSampler, "batch", watched)
        pretrain_bundle(base, inputs, path, choices)
    assert abs(float(seen[0].mean())) < 0.1 and float(seen[0].std()) == pytest.approx(1, abs=0.2)
    state, header = read_encoder(path)
    assert (header.base, header.window, header.spacing) == ("prostate", [64, 64, 8], [2.0, 2.0, 4.0])

    network = CSwinUNETR(**{k: v for k, v in definition.items() if k != "_target_"})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    after = start_from(network, path).state_dict()
    assert {name for name in after if torch.equal(after[name], before[name])} >= set(before) - set(state)
    name = next(name for name, value in state.items() if after[name].shape != value.shape)
    torch.testing.assert_close(after[name].unflatten(1, (3, -1)).sum(1), state[name])

    with pytest.raises(MedvitError, match="add --from scratch"):
        PretrainingChoices(recipe=str(recipe), start="weights")
    recipe.write_text("{}")
    with pytest.raises(MedvitError, match="is not a recipe with a network_def"):
        pretrain_bundle(base, inputs, tmp_path / "f.safetensors", choices)
