"""Transforms of trainings: mirroring that swaps sides, and voxels that no score counts."""

from __future__ import annotations

import torch

from medvit.training import MirrorLeftRightd, UnlabelledAsBackgroundd


def test_mirroring_keeps_left_on_the_left() -> None:
    label = torch.zeros(1, 4, 3)
    label[0, 0, 0], label[0, 3, 1], label[0, 1, 2] = 1, 2, 5
    data = {"image": label.clone(), "label": label}
    mirrored = MirrorLeftRightd(["image", "label"], pairs=[[1, 2]], prob=1.0)(data)
    assert mirrored["image"][0, 3, 0] == 1 and mirrored["label"][0, 3, 0] == 2
    assert mirrored["label"][0, 0, 1] == 1 and mirrored["label"][0, 2, 2] == 5
    assert torch.equal(data["label"], label)


def test_mirroring_along_another_axis_and_by_chance() -> None:
    data = {"label": torch.arange(6).reshape(1, 2, 3)}
    assert MirrorLeftRightd("label", axis=1, prob=1.0)(data)["label"].tolist() == [[[2, 1, 0], [5, 4, 3]]]
    assert MirrorLeftRightd("label", prob=0.0)(data)["label"] is data["label"]
    half = MirrorLeftRightd("label")
    half.set_random_state(seed=0)
    mirrored = sum(not torch.equal(half(data)["label"], data["label"]) for _ in range(400))
    assert 150 < mirrored < 250  # within five standard deviations of a half


def test_scores_leave_unlabelled_voxels_out() -> None:
    data = {"pred": torch.tensor([[[1, 2, 0]]]), "label": torch.tensor([[[3, 2, 3]]])}
    result = UnlabelledAsBackgroundd("pred", value=3)(data)
    assert result["pred"].tolist() == [[[0, 2, 0]]] and result["label"].tolist() == [[[0, 2, 0]]]


def test_a_label_map_without_unlabelled_voxels_is_not_copied() -> None:
    data = {"pred": torch.ones(1, 2), "label": torch.ones(1, 2)}
    result = UnlabelledAsBackgroundd("pred", value=3)(data)
    assert result["pred"] is data["pred"] and result["label"] is data["label"]
