"""Windows, mirrored and resampled labels, and what watches over a training."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAffined
from torch import nn

from medvit.errors import MedvitError
from medvit.training import BestWeights, NanGuard, PatchDataset, Sample

CROP = {"spatial_size": (8, 8, 8), "mode": ["bilinear", "nearest"], "padding_mode": "border"}


def sample() -> Sample:
    """Each voxel of the image is its own number; one voxel is labelled."""
    label = np.zeros((20, 18, 4), np.uint8)
    label[17, 3, 2] = 2
    return Sample.of(np.arange(20 * 18 * 4, dtype=np.float32).reshape(1, 20, 18, 4) + 1, label)


def windows(**options: object) -> PatchDataset:
    crop = Compose([RandAffined(["image", "label"], prob=0.0, **CROP)])
    return PatchDataset([sample()], (8, 8, 8), 40, crop, **options)  # type: ignore[arg-type]


def test_a_window_is_a_box_of_the_image_with_its_labels_and_zero_outside() -> None:
    image, label = sample().image[0], sample().label  # type: ignore[index]
    labelled = 0
    for cut in (windows()[i] for i in range(40)):
        box, drawn = cut["image"][0].numpy(), cut["label"][0].numpy()
        assert box.shape == (8, 8, 8)
        # Four slices of eight: two of zeros on either side.
        assert (box[:, :, :2] == 0).all() and (box[:, :, 6:] == 0).all()
        x, y, _ = np.argwhere(image == round(float(box[0, 0, 2])))[0]
        np.testing.assert_allclose(box[:, :, 2:6], image[x : x + 8, y : y + 8], atol=0.01)
        np.testing.assert_array_equal(drawn[:, :, 2:6], label[x : x + 8, y : y + 8])
        labelled += drawn.any()
    assert 20 <= labelled < 40


def test_windows_are_a_function_of_seed_and_number_so_that_resuming_repeats_none() -> None:
    first, other, resumed = windows(), windows(seed=1), windows()
    resumed.offset = 5
    assert torch.equal(first[6]["image"], resumed[1]["image"])
    assert not torch.equal(first[6]["image"], first[7]["image"])
    assert any(not torch.equal(first[i]["image"], other[i]["image"]) for i in range(5))


def test_slices_for_two_dimensional_networks() -> None:
    crop = Compose([RandAffined(["image", "label"], prob=0.0, **CROP | {"spatial_size": (8, 8)})])
    data = PatchDataset([sample()], (8, 8, 1), 10, crop, slice_axis=2)
    assert data[0]["image"].shape == data[0]["label"].shape == (1, 8, 8)
    assert len({(data[i]["image"] % 4).unique().numel() for i in range(10)}) == 1


def trainer(epoch: int, loss: float = 1.0) -> SimpleNamespace:
    state = SimpleNamespace(epoch=epoch, output={"loss": loss})
    return SimpleNamespace(state=state, terminate=lambda: setattr(state, "stopped", True))


def test_the_best_weights_come_back_and_a_structure_that_is_nowhere_does_not_count() -> None:
    network, state = nn.Linear(1, 1, bias=False), SimpleNamespace(metric_details={})
    best = BestWeights(network, SimpleNamespace(state=state), ["a", "b", "c"], patience=2)
    nan = float("nan")
    scores = {
        1: [[0.2, 0.4, nan], [0.4, nan, nan]],
        2: [[0.8, 0.6, nan], [0.6, nan, nan]],
        3: [[0.1, 0.1, nan], [0.1, nan, nan]],
    }
    for epoch, details in scores.items():
        nn.init.constant_(network.weight, epoch)
        state.metric_details["val_mean_dice"] = torch.tensor(details)
        best(now := trainer(epoch))
        assert not hasattr(now.state, "stopped")
    assert best.score == pytest.approx((0.7 + 0.6) / 2)
    assert best.structures == pytest.approx({"a": 0.7, "b": 0.6})
    resumed = BestWeights(network, SimpleNamespace(state=state), ["a", "b", "c"], patience=2)
    resumed.load_state_dict(best.state_dict())
    resumed(last := trainer(4))
    assert last.state.stopped
    assert resumed.restored().weight.item() == 2


def test_a_loss_that_stays_nan_ends_training_and_a_single_one_does_not() -> None:
    guard = NanGuard(patience=3)
    for loss in (float("nan"), float("inf"), 1.0, float("nan"), float("nan")):
        guard(trainer(1, loss))
    with pytest.raises(MedvitError, match="lower --learning-rate"):
        guard(trainer(1, float("nan")))
