"""Voxels that nobody labelled: nothing is learned from them, and nothing scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medvit.datasets import read_manifest
from medvit.datasets.splits import split_cases
from medvit.losses import SparseDiceCELoss
from medvit.training.case_facts import survey
from medvit.training.steps import where_labelled
from tests.training.cases import write_data


def test_no_gradient_comes_from_there() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, requires_grad=True)
    label = torch.randint(0, 3, (2, 1, 4, 5, 6))
    label[:, :, :2] = 3
    loss = SparseDiceCELoss()(*where_labelled(logits, label, 3))
    loss.backward()
    assert logits.grad[:, :, :2].abs().max() == 0 and logits.grad[:, :, 2:].abs().min() > 0
    changed = logits.detach().clone()
    changed[:, :, :2] = torch.randn(2, 3, 2, 5, 6)
    assert SparseDiceCELoss()(*where_labelled(changed, label, 3)) == loss


def test_deeper_outputs_are_masked_on_their_own_grids() -> None:
    outputs = [torch.randn(1, 3, 8, 8, 8), torch.randn(1, 3, 4, 4, 4)]
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    label[:, :, :4] = 3
    masked, known = where_labelled(outputs, label, 3)
    assert known.max() == 0
    for before, after in zip(outputs, masked, strict=True):
        half = before.shape[2] // 2
        assert (after[:, 0, :half] > after[:, 1:, :half].amax(1)).all()
        assert torch.equal(after[:, :, half:], before[:, :, half:])


def test_labels_that_are_whole_pass_as_they_are() -> None:
    logits, label = torch.randn(1, 3, 4, 4, 4), torch.full((1, 1, 4, 4, 4), 2)
    assert where_labelled(logits, label, 3) == (logits, label)


def test_the_value_comes_from_the_manifest(tmp_path: Path) -> None:
    path = write_data(tmp_path, labels=[{"value": 3, "name": "low box"}], ignore=7)
    manifest = read_manifest(path)
    np.testing.assert_array_equal(manifest.to_table(np.array([0, 3, 7])), [0, 1, 2])
    (first, *_) = survey(split_cases(manifest).training, manifest)
    assert first.values == {1} and 20 < np.median(first.intensities) < 80


@pytest.mark.parametrize("value", [3, 9])
def test_nnunets_own_word_for_it(tmp_path: Path, value: int) -> None:
    content = {
        "channel_names": {"0": "CT"},
        "file_ending": ".nii.gz",
        "labels": {"background": 0, "liver": 1},
    }
    content["labels"]["ignore"] = value
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    manifest = read_manifest(tmp_path)
    assert manifest.ignore == value and manifest.values == (1,) and value in manifest.known_values
    np.testing.assert_array_equal(manifest.to_table(np.array([0, 1, value])), [0, 1, 2])
