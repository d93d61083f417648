"""The parts of recipes that MONAI lacks, against what they stand for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from torch import nn

from medvit.datasets import read_manifest
from medvit.errors import MedvitError, WeightsError
from medvit.losses import FocalRegionLoss
from medvit.networks import RAT, RegionInput, SegFormer3D
from medvit.training.recipes import (
    CaseScores,
    ManifestLabelsd,
    RegionChannelLoss,
    RegionsToLabeld,
    ScaleSlicesd,
    SliceDataset,
    SliceProtocolInferer,
    SlicesFirstd,
    TurnSliced,
    WindowedPSNR,
    WindowedRMSE,
    WindowedSSIM,
    case_list,
    dice_absent_is_zero,
    dice_where_present,
    foreground_intensity,
    keep_best,
    listed_fold,
    nnformer_dice,
    nnformer_hd95,
    nnunet_augmentation,
    nnunet_fold,
    nnunet_postprocessing,
    nnunet_preprocessing,
    start_from,
    transunet_dice,
    transunet_hd95,
)
from tests.workflows.data_sets import write_folds, write_nnunet

EMPTY, FULL = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
HALF = np.indices((4, 4, 4))[0] < 2


def saved(path: Path, voxels: np.ndarray, affine: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


# --- scores


@pytest.mark.parametrize(
    ("score", "of_both_empty", "without_reference", "without_prediction"),
    [
        (dice_where_present, np.nan, np.nan, 0.0),
        (dice_absent_is_zero, 0.0, 0.0, 0.0),
        (nnformer_dice, 1.0, 0.0, 0.0),
        (nnformer_hd95, 0.0, 0.0, 0.0),
        (transunet_dice, 0.0, 1.0, 0.0),
        (transunet_hd95, 0.0, 0.0, 0.0),
    ],
)
def test_each_protocol_has_its_rule_for_empty_masks(
    score: Any, of_both_empty: float, without_reference: float, without_prediction: float
) -> None:
    np.testing.assert_equal(score(EMPTY, EMPTY), of_both_empty)
    np.testing.assert_equal(score(FULL, EMPTY), without_reference)
    np.testing.assert_equal(score(EMPTY, FULL), without_prediction)


def test_dice_and_hd95_of_filled_masks() -> None:
    for dice in (dice_where_present, dice_absent_is_zero, nnformer_dice, transunet_dice):
        assert dice(HALF, FULL) == pytest.approx(2 * 32 / (32 + 64))
    # The surface of the half: 2 voxels from the far face of the whole.
    assert nnformer_hd95(HALF, FULL) == transunet_hd95(HALF, FULL) == pytest.approx(2.0)


def test_case_scores_average_cases_and_then_structures() -> None:
    reference = torch.tensor([1, 1, 2, 0]).reshape(1, 1, 1, 1, 4)
    without_two = torch.tensor([1, 1, 0, 0]).reshape(1, 1, 1, 1, 4)
    metric = CaseScores(dice_where_present, [1, 2])
    metric(torch.tensor([1, 0, 2, 0]).reshape(1, 1, 1, 1, 4), reference)  # 2/3 and 1
    metric(without_two, without_two)  # 1 and nothing
    np.testing.assert_allclose(metric.get_buffer(), [[2 / 3, 1], [1, np.nan]], rtol=1e-6)
    assert metric.aggregate() == pytest.approx(((2 / 3 + 1) / 2 + 1) / 2)


def test_case_scores_of_masks_that_overlap_are_by_channel() -> None:
    reference = torch.tensor([[1, 1, 0], [1, 0, 0]]).reshape(1, 2, 3, 1, 1)
    prediction = torch.tensor([[1, 1, 0], [0, 1, 0]]).reshape(1, 2, 3, 1, 1)
    np.testing.assert_allclose(CaseScores(dice_where_present)(prediction, reference), [[1, 0]])
    with pytest.raises(ValueError, match="cannot score"):
        CaseScores(dice_where_present, [1])(prediction, reference)


def test_restoration_is_scored_inside_the_window() -> None:
    reference = np.random.default_rng(0).uniform(-160, 240, (16, 16, 2))
    reference[0, 0] = 2000  # above the window in both: no error
    restored = reference + 4.0
    restored[reference > 236] = reference[reference > 236]
    restored[0, 0] = 3000
    error = np.sqrt(np.mean((np.clip(restored, -160, 240) - np.clip(reference, -160, 240)) ** 2))
    assert WindowedRMSE((-160, 240))(restored, reference) == pytest.approx(error, rel=0.02)
    assert WindowedPSNR((-160, 240))(restored, reference) == pytest.approx(
        20 * np.log10(400 / error), abs=0.1
    )
    assert WindowedSSIM((-160, 240))(reference, reference) == 1.0
    assert np.isnan(WindowedPSNR((-160, 240))(reference, reference))


# --- cases


def test_folds_are_nnunets() -> None:
    cases = [{"case": f"{number:03d}"} for number in range(23)]
    folds = [nnunet_fold(cases, fold) for fold in range(5)]
    assert [len(fold["validation"]) for fold in folds] == [5, 5, 5, 4, 4]
    # By scikit-learn's KFold(5, shuffle=True, random_state=12345).
    assert [case["case"] for case in folds[0]["validation"]] == ["003", "008", "010", "017", "019"]
    held_out = [case["case"] for fold in folds for case in fold["validation"]]
    assert sorted(held_out) == [case["case"] for case in cases]
    assert len(folds[0]["train"]) == 18
    with pytest.raises(MedvitError, match="five or more"):
        nnunet_fold(cases[:4])


def test_folds_by_patient_keep_the_studies_of_one_together() -> None:
    names = [f"1{patient:04d}_{1000000 + study}" for patient in range(7) for study in range(3)]
    cases = [{"filename_or_obj": name} for name in names]
    folds = [nnunet_fold(cases, fold, by_patient=True) for fold in range(5)]
    assert [len(fold["validation"]) for fold in folds] == [6, 6, 3, 3, 3]
    for fold in folds:
        sides = [{case["filename_or_obj"][:5] for case in fold[side]} for side in ("train", "validation")]
        assert not sides[0] & sides[1]
    with pytest.raises(MedvitError, match="4 patients have no fold 0"):
        nnunet_fold(cases[:12], by_patient=True)


def test_a_list_of_folds_holds_one_out(tmp_path: Path) -> None:
    write_folds("brats2021", tmp_path, 3, (8, 8, 8), (1, 1, 1))
    fold = listed_fold(tmp_path / "brats21_folds.json", tmp_path, 1)
    assert [Path(case["label"]).parent.name for case in fold["validation"]] == ["BraTS2021_00001"]
    names = [Path(path).name for path in fold["train"][0]["image"]]
    assert names == [f"BraTS2021_00000_{channel}.nii.gz" for channel in ("flair", "t1ce", "t1", "t2")]
    with pytest.raises(MedvitError, match="no fold 7"):
        listed_fold(tmp_path / "brats21_folds.json", tmp_path, 7)


def test_unlabelled_cases_are_for_no_training(tmp_path: Path) -> None:
    write_nnunet(tmp_path, 2, 2, (8, 8, 8), (1, 1, 1))
    (tmp_path / "imagesTs").mkdir()
    saved(tmp_path / "imagesTs/other_0000.nii.gz", np.zeros((8, 8, 8), np.float32), np.eye(4))
    assert [item["filename_or_obj"] for item in case_list(tmp_path, tmp_path)] == ["case_000", "case_001"]


def test_foreground_intensity_is_of_labelled_voxels(tmp_path: Path) -> None:
    label = np.zeros((10, 10, 10), np.uint8)
    label[2:8, 2:8, 2:8] = 1
    image = np.where(label, np.random.default_rng(0).normal(60, 5, label.shape), -1000).astype(np.float32)
    cases = [
        {
            "image": saved(tmp_path / "i.nii", image, np.eye(4)),
            "label": saved(tmp_path / "l.nii", label, np.eye(4)),
        }
    ]
    found = foreground_intensity(cases)
    inside = image[label > 0]
    assert found == pytest.approx(
        (*np.percentile(inside, [0.5, 99.5]), inside.mean(), inside.std()), rel=1e-4
    )
    nothing = [{**cases[0], "label": saved(tmp_path / "n.nii", 0 * label, np.eye(4))}]
    with pytest.raises(MedvitError, match="no case has a labelled voxel"):
        foreground_intensity(nothing)
    other = [{**cases[0], "label": saved(tmp_path / "o.nii", label[1:], np.eye(4))}]
    with pytest.raises(MedvitError, match="its label map"):
        foreground_intensity(other)


# --- transforms


def test_regions_follow_the_manifest_and_not_the_numbers() -> None:
    names = ("TC", "WT", "ET")
    brats21 = MetaTensor(torch.tensor([0, 1, 2, 4]).reshape(1, 4, 1, 1))
    decathlon = MetaTensor(torch.tensor([0, 2, 1, 3]).reshape(1, 4, 1, 1))
    expected = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1.0]])
    for manifest, label_map in (("brats2021", brats21), ("brats2017", decathlon)):
        masks = ManifestLabelsd("label", manifest, names)({"label": label_map})["label"]
        torch.testing.assert_close(masks.as_tensor()[..., 0, 0], expected)
    with pytest.raises(MedvitError, match="does not know"):
        ManifestLabelsd("label", "brats2017", names)({"label": brats21})
    with pytest.raises(MedvitError, match="no region XX"):
        ManifestLabelsd("label", "brats2017", ["XX"])


def test_synapse_labels_take_transunets_numbers() -> None:
    label_map = MetaTensor(torch.arange(14).reshape(1, 14, 1, 1))
    table = ManifestLabelsd("label", "synapse")({"label": label_map})["label"]
    names = [s.name for s in read_manifest("synapse").labels or ()]
    assert table.flatten().tolist() == [0, 7, 4, 3, 2, 0, 5, 8, 1, 0, 0, 6, 0, 0]
    assert names[0] == "aorta" and names[7] == "stomach"


def test_slices_first_and_back() -> None:
    affine = torch.tensor([[1.0, 0, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    image = MetaTensor(torch.rand(2, 3, 4, 5), affine=affine)
    turn = SlicesFirstd("image")
    turned = turn({"image": image})
    assert turned["image"].shape == (2, 5, 4, 3)
    assert turned["image"].pixdim.tolist() == [3, 2, 1]
    # A voxel keeps its place.
    place = turned["image"].affine.float() @ torch.tensor([4.0, 3, 2, 1])
    torch.testing.assert_close(place, affine @ torch.tensor([2.0, 3, 4, 1]))
    back = turn.inverse(turned)["image"]
    torch.testing.assert_close(back.as_tensor(), image.as_tensor())
    torch.testing.assert_close(back.affine.float(), affine)


def test_slices_are_scaled_one_by_one() -> None:
    image = torch.rand(1, 4, 4, 3) * torch.tensor([1.0, 10, 0]) + 5
    scaled = ScaleSlicesd("image")({"image": image})["image"]
    assert scaled.amax((1, 2)).tolist() == [[1, 1, 0]] and scaled.amin((1, 2)).tolist() == [[0, 0, 0]]


def test_predictions_return_to_the_grid_of_their_file(tmp_path: Path) -> None:
    write_nnunet(tmp_path, 3, 1, (30, 26, 8), (1.5, 1.5, 5.0))
    case = case_list(tmp_path, tmp_path)[0]
    truth = np.asarray(nib.load(case["label"]).dataobj)
    as_image = saved(tmp_path / "truth.nii.gz", truth.astype(np.float32), nib.load(case["label"]).affine)
    preprocessing = nnunet_preprocessing(tmp_path, [2.5, 1.0, 1.0], resample_label=False)
    sample = preprocessing({"image": as_image, "label": case["label"]})
    assert sample["image"].shape == (1, 15, 38, 44)  # Z, Y, X at the new spacing
    assert sample["label"].shape == (1, 30, 26, 8)
    levels = torch.unique(sample["image"].as_tensor())
    nearest = torch.tensor(
        [levels.min(), *(levels.min() + k * (levels.max() - levels.min()) / 3 for k in (1, 2, 3))]
    )
    logits = -20 * (sample["image"] - nearest.reshape(4, 1, 1, 1)).abs()
    sample["pred"] = logits
    predicted = nnunet_postprocessing(preprocessing)(sample)["pred"]
    assert predicted.shape == sample["label"].shape
    assert (predicted[0].numpy() == truth).mean() > 0.95
    assert nnformer_dice(predicted[0].numpy() == 3, truth == 3) > 0.9


def test_patches_have_their_size_and_a_third_holds_a_label() -> None:
    label = torch.zeros(1, 10, 60, 60, dtype=torch.uint8)
    label[:, 5, 30, 30] = 1
    sample = {"image": MetaTensor(torch.rand(1, 10, 60, 60)), "label": MetaTensor(label)}
    transform = nnunet_augmentation((8, 16, 16), samples=60).set_random_state(0)
    patches = transform(sample)
    assert {tuple(patch["image"].shape) for patch in patches} == {(1, 8, 16, 16)}
    with_label = sum(bool(patch["label"].any()) for patch in patches)
    assert 12 <= with_label <= 36


# --- slices


class Mean(nn.Module):
    """Class 1 where the slice is above a half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 * torch.ones_like(image), image * self.weight], dim=1)


def test_every_slice_is_a_sample() -> None:
    volumes = [{"image": torch.rand(1, 4, 5, n), "label": torch.rand(1, 4, 5, n)} for n in (2, 3)]
    slices = SliceDataset(volumes, lambda sample: sample)
    assert len(slices) == 5
    torch.testing.assert_close(slices[3]["label"], volumes[1]["label"][..., 1])
    torch.testing.assert_close(slices[1]["image"], volumes[0]["image"][..., 1])


def test_image_and_label_turn_alike_and_by_all_kinds() -> None:
    image = torch.arange(400.0).reshape(1, 20, 20)
    transform, kinds = TurnSliced(["image", "label"]), set()
    transform.set_random_state(1)
    for _ in range(40):
        turned = transform({"image": image, "label": image.clone()})
        torch.testing.assert_close(turned["image"], turned["label"])
        whole = set(turned["image"].flatten().tolist()) == set(image.flatten().tolist())
        kinds.add("same" if torch.equal(turned["image"], image) else "quarter" if whole else "degrees")
    assert kinds == {"same", "quarter", "degrees"}


def test_the_slice_protocol_labels_axial_slices() -> None:
    volume = torch.zeros(1, 1, 8, 6, 4)
    volume[..., 2] = 1
    predicted = SliceProtocolInferer(img_size=(8, 6))(volume, Mean())
    assert predicted.shape == (1, 1, 8, 6, 4)
    assert torch.equal(predicted.bool(), volume.bool())


# --- restoration, start, end


def test_the_region_map_travels_with_the_target() -> None:
    image, target = torch.rand(2, 8, 8), torch.rand(1, 8, 8)
    image[1] = (torch.arange(8) // 4).float()
    label = RegionsToLabeld("label")({"image": image, "label": target})["label"]
    output = torch.rand(1, 1, 8, 8)
    loss = FocalRegionLoss(beta=1.0)
    given = RegionChannelLoss(loss)(output, label[None])
    torch.testing.assert_close(given, loss(output, target[None], image[None, 1]))


def test_weights_to_start_from_are_told_apart(tmp_path: Path) -> None:
    options: Any = {"embed_dims": [8] * 4, "num_heads": [1] * 4, "depths": [1] * 4, "decoder_dim": 8}
    ours = SegFormer3D(1, 2, **options)
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    loaded = start_from(SegFormer3D(1, 2, **options), tmp_path / "ours.pt")
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, ours.state_dict()[name])
    with pytest.raises(WeightsError):
        start_from(SegFormer3D(1, 3, **options), tmp_path / "ours.pt")
    network = SegFormer3D(1, 2, **options)
    assert start_from(network) is network
    restorer = RegionInput(RAT(1, width=8, num_blocks=1))
    with pytest.raises(WeightsError):  # asked of RAT itself, in its authors' layout
        start_from(restorer, tmp_path / "ours.pt")


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    network, path = nn.Linear(1, 1, bias=False), tmp_path / "best.pt"
    evaluator: Any = Engine(lambda engine, batch: None)
    keep_best(evaluator, network, path)
    for value, best in ((1.0, True), (2.0, False), (3.0, True)):
        nn.init.constant_(network.weight, value)
        evaluator.state.best_metric_epoch = 1 if best else 7
        evaluator.run([0])
        kept = torch.load(path, weights_only=True)["weight"].item()
        assert kept == (value if best else 1.0)


def test_configurations_find_the_recipes_before_anything_else_imported_them() -> None:
    subprocess.run([sys.executable, "-c", "import medvit.training as t; t.recipes.case_list"], check=True)
