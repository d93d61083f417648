"""What a plan takes from the data, and what the network has to say about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medvit.bundles import Bundle
from medvit.datasets import Manifest
from medvit.datasets.splits import Split, patient_of, split_cases
from medvit.errors import MedvitError
from medvit.studies.labels import parse_label_table
from medvit.training import Base, CaseFacts, Choices, make_plan
from medvit.training.cases import read_case
from medvit.training.network import (
    build,
    carry_over,
    fitted,
    lateral,
    network_definition,
)
from medvit.training.plan import intensity, median_spacing
from medvit.training.windows import batch_for, refusal, training_bytes, window_for
from tests.label.phantoms import make_bundle
from tests.training.cases import write_data

SEGFORMER = {
    "_target_": "medvit.networks.SegFormer3D", "in_channels": 1, "out_channels": 4,
    "embed_dims": [8, 16, 16, 16], "num_heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1],
    "mlp_ratios": [1, 1, 1, 1], "decoder_dim": 8,
}  # fmt: skip


def facts(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], values: tuple[int, ...] = (1, 2)
) -> CaseFacts:
    voxels = np.array([[0.0, 10.0, 20.0, 1000.0]], np.float32)
    return CaseFacts("a", shape, spacing, frozenset(values), voxels)


def manifest(*names: str, modality: str = "MR") -> Manifest:
    table = parse_label_table({"name": "t", "structures": [{"name": name} for name in names]})
    return Manifest(
        Path("t.json"), "t", modality=modality, labels=table, values=tuple(range(1, len(names) + 1))
    )


def test_spacing_is_the_median_and_thick_slices_are_not_made_thinner_than_any_were() -> None:
    even = [facts((100, 100, 90), (1, 1, z)) for z in (1.0, 1.5, 2.5)]
    assert median_spacing(even) == (1, 1, 1.5)
    thick = [facts((300, 300, 20), (0.8, 0.8, z)) for z in (3.0, 5.0, 6.0, 6.0, 6.0)]
    # Of 3, 5, 6, 6, 6 the tenth percentile is 3.8.
    assert median_spacing(thick) == (0.8, 0.8, 3.8)


def test_ct_is_clipped_to_labelled_voxels_and_mr_scaled_by_its_own_range() -> None:
    case = facts((9, 9, 9), (1, 1, 1))
    low, high = np.percentile(case.intensities, [0.5, 99.5])
    words = intensity(manifest("liver", modality="CT"), [case]).split(":")
    assert words[0] == "window"
    np.testing.assert_allclose(
        [float(n) for n in words[1:]], [low, high, case.intensities.mean(), case.intensities.std()], rtol=1e-4
    )
    assert intensity(manifest("liver"), [case]) == "percentile"


def test_windows_have_the_shape_of_the_studies_the_size_of_the_memory_and_please_the_network() -> None:
    def small(edges: object) -> bool:
        return int(np.prod(edges)) <= 64**3

    assert window_for(SEGFORMER, (150, 60, 30), (64, 64, 64), small) == (128, 64, 32)
    # Studies as small as a hippocampus are seen whole, without many voxels beside.
    assert window_for(SEGFORMER, (35, 50, 36), (64, 64, 64), small) == (48, 64, 48)
    swin = {"_target_": "medvit.networks.SwinUNETR", "in_channels": 1, "out_channels": 2, "feature_size": 12}
    assert "64" in refusal(swin, (32, 32, 32))
    assert refusal(swin, (64, 32, 32)) == ""
    assert "more than 1 value per channel" in refusal(SEGFORMER, (32, 32, 32), batch_size=1)
    # One edge of at least 64 is what this network wants, even where the studies are smaller.
    assert window_for(swin, (30, 30, 30), (64, 64, 64), small) == (64, 32, 32)


def test_small_windows_come_in_larger_batches() -> None:
    assert [batch_for(w) for w in ((64, 64, 64), (48, 64, 48), (16, 16, 16), (96, 96), (32, 32))] == [
        2, 4, 8, 14, 32
    ]  # fmt: skip


def test_memory_of_a_step_grows_with_the_batch_and_holds_what_autograd_keeps() -> None:
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.GELU(), nn.Conv3d(4, 2, 1))
    one, two = (training_bytes(network, (n, 1, 8, 8, 8)) for n in (1, 2))
    # The input, and both maps of four channels; the parameters (112 + 10) five times.
    assert one == 4 * (512 * (1 + 4 + 4) + 5 * 122)
    assert two is not None and two - one == 4 * 512 * 9


def test_a_plan_is_what_the_data_say_unless_a_person_does(tmp_path: Path) -> None:
    bundle = Base.of_bundle(Bundle(make_bundle(tmp_path / "base")))
    cases = [facts((40, 40, 40), (1, 1, 2), values=(1,))] * 3
    counted = {"split": "by hand", "cases": {"training": 2, "validation": 1}}
    plan = make_plan(bundle, manifest("left ear", "right ear"), cases, Choices(device="cpu"), **counted)
    assert plan.spacing == (1, 1, 2)
    assert plan.network["out_channels"] == 3
    assert plan.mirror and plan.pairs == ((1, 2),)
    assert any("No case has right ear" in note for note in plan.notes)
    chosen = Choices(spacing=(2, 2, 2), patch_size=(16, 24, 32), device="cpu")
    plan = make_plan(bundle, manifest("nose", "left ear"), cases, chosen, **counted)
    assert (plan.spacing, plan.patch_size, plan.mirror) == ((2, 2, 2), (16, 24, 32), False)
    with pytest.raises(MedvitError, match="'left ear' has no counterpart on the other side"):
        make_plan(bundle, manifest("nose", "left ear"), cases, Choices(mirror=True), **counted)


def split_of(path: Path, **options: float) -> Split:
    return split_cases(path, "", **options)


def test_patients_are_never_on_both_sides(tmp_path: Path) -> None:
    assert patient_of("patient007_frame01") == "patient007"
    assert patient_of("10005_1000005") == "10005" and patient_of("10005_0000") == "10005_0000"
    path = write_data(tmp_path, 3)
    listed = path.read_text().replace('"id": "case', '"id": "sub-').replace('"sub-1"', '"sub-0_ses-2"')
    path.write_text(listed.replace('"sub-0"', '"sub-0_ses-1"'))
    for seed in range(4):
        split = split_of(path, val_fraction=0.5, seed=seed)
        sides = [{patient_of(case.id) for case in side} for side in (split.training, split.validation)]
        assert sides in ([{"sub-0"}, {"sub-2"}], [{"sub-2"}, {"sub-0"}])
    assert split_of(path, val_fraction=0.0).validation == ()


def test_the_manifests_own_split_comes_first_and_its_test_cases_stay_unseen(tmp_path: Path) -> None:
    path = write_data(tmp_path, 3, splits={"training": ["case0"], "validation": ["case1"], "test": ["case2"]})
    split = split_of(path)
    assert [[c.id for c in side] for side in (split.training, split.validation)] == [["case0"], ["case1"]]


def test_sides_stay_in_a_channel_of_their_own_where_the_bundle_has_one(tmp_path: Path) -> None:
    organs = parse_label_table(
        {"name": "organs", "structures": [{"name": "liver"}, {"name": "kidney", "paired": True}]}
    )
    root = make_bundle(
        tmp_path / "base", table="", channel_def=organs.channel_def, medvit={"labels": organs.as_dict()}
    )
    config = json.loads((root / "configs" / "inference.json").read_text())
    config["network_def"] = lateral(SEGFORMER, organs)
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    before = build(config["network_def"])
    torch.save(before.state_dict(), root / "models" / "model.pt")
    new = parse_label_table({"name": "mine", "structures": [{"name": "kidney", "paired": True}]})
    definition = network_definition(Bundle(root))
    network, alone = (
        build(lateral(fitted(definition, 1, 3, (32,) * 3), new)),
        build(fitted(definition, 1, 3, (32,) * 3)),
    )
    assert network.eval()(torch.zeros(1, 1, 32, 32, 32)).shape[1] == 3
    carried = carry_over(network, Bundle(root), new)
    assert carried.structures == ("left kidney", "right kidney") and carried.in_part == 2
    carry_over(alone, Bundle(root), new)
    old = before.state_dict()
    for name, value in alone.state_dict().items():
        if value.shape != old[f"network.{name}"].shape:
            rows, inside = old[f"network.{name}"], network.state_dict()[f"network.{name}"]
            # Background, liver, kidney, side before; with and without a side of its own now.
            torch.testing.assert_close(inside, rows[[0, 2, 3]])
            torch.testing.assert_close(value, rows[[0, 2, 2]])


def test_names_that_a_configuration_would_run_are_refused(tmp_path: Path) -> None:
    bundle = Base.of_bundle(Bundle(make_bundle(tmp_path / "base")))
    for name in ("$import os", "@run", "%liver"):
        with pytest.raises(MedvitError, match="cannot be the name"):
            make_plan(bundle, manifest(name), [facts((9, 9, 9), (1, 1, 1))], Choices())


def test_the_folder_of_an_nnunet_data_set_is_taken_as_it_is(tmp_path: Path) -> None:
    write_data(tmp_path / "flat", 2, channels=2)
    for number in range(2):
        for channel in range(2):
            (tmp_path / "imagesTr").mkdir(exist_ok=True)
            name = f"case{number}_{channel:04d}.nii.gz"
            (tmp_path / "flat" / name).rename(tmp_path / "imagesTr" / name)
        (tmp_path / "labelsTr").mkdir(exist_ok=True)
        label = tmp_path / "flat" / f"case{number}_seg.nii.gz"
        label.rename(tmp_path / "labelsTr" / f"case{number}.nii.gz")
    stated = {
        "channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz", "numTraining": 2,
        "labels": {"background": 0, "low": 3, "high": 7},
    }  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    split = split_cases(tmp_path / "dataset.json", val_fraction=0.5)
    assert len(split.training) == len(split.validation) == 1
    study, labels = read_case(split.training[0], split.manifest)
    assert study.image is not None and study.image.shape[0] == 2
    assert sorted(np.unique(labels).tolist()) == [0, 1, 2]
    assert (study.image[0].numpy()[labels == 2] > 80).all() and (
        study.image[1].numpy()[labels == 2] < -80
    ).all()


def test_tensors_that_fit_are_taken_and_structures_keep_their_readout(tmp_path: Path) -> None:
    channels = {"0": "background", "1": "spleen", "2": "liver", "3": "left kidney"}
    table = parse_label_table(
        {"name": "organs", "structures": [{"name": name} for name in list(channels.values())[1:]]}
    )
    root = make_bundle(tmp_path / "base", table="", channel_def=channels, medvit={"labels": table.as_dict()})
    torch.manual_seed(0)
    before = build(SEGFORMER)
    torch.save(before.state_dict(), root / "models" / "model.pt")
    new = parse_label_table({"name": "mine", "structures": [{"name": "liver"}, {"name": "pancreas"}]})
    network = build(fitted(SEGFORMER, 1, 3, (32, 32, 32)))
    carried = carry_over(network, Bundle(root), new)
    own, old = network.state_dict(), before.state_dict()
    readout = [name for name in own if own[name].shape != old[name].shape]
    assert carried.in_part == len(readout) == 2 and carried.taken == len(own) - 2
    assert carried.structures == ("liver",)
    for name, value in own.items():
        if name not in readout:
            torch.testing.assert_close(value, old[name])
    for name in readout:
        torch.testing.assert_close(own[name][[0, 1]], old[name][[0, 2]])
    assert any((own[name][2] != old[name][3]).any() for name in readout)
    assert f"{carried.taken} of {len(own)} tensors taken from base and 2 in part" in carried.sentence("base")
