"""Specks go, structures stay."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

from medvit.transforms import LargestComponentd


def test_specks_take_the_label_around_them() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:16, 2:16, 2:16] = 1
    labels[4:8, 4:8, 4:8] = 2
    labels[11, 11, 11] = 2  # a speck inside structure 1
    labels[18, 18, 18] = 1  # a speck in the air
    cleaned = LargestComponentd("pred", compact=[2])(
        {"pred": MetaTensor(torch.from_numpy(labels)[None], affine=2 * torch.eye(4))}
    )["pred"]
    expected = labels.copy()
    expected[11, 11, 11], expected[18, 18, 18] = 1, 0
    assert np.array_equal(cleaned[0].numpy(), expected)
    assert cleaned.dtype == torch.uint8
    assert cleaned.affine[0, 0] == 2
    assert labels[18, 18, 18] == 1, "the input must stay as it is"


def test_structures_that_are_not_compact_keep_their_parts() -> None:
    labels = torch.zeros(1, 12, 6, 6, dtype=torch.uint8)
    labels[0, 1:11, 1:5, 1:5] = 1
    labels[0, 1:3, 1:5, 1:5] = 2
    labels[0, 9:11, 1:5, 1:4] = 2
    assert torch.equal(LargestComponentd("pred")({"pred": labels})["pred"], labels)
    kept = LargestComponentd("pred", compact=[2])({"pred": labels})["pred"]
    assert (kept == 2).sum() == 2 * 4 * 4


def test_nothing_in_nothing_out() -> None:
    empty = torch.zeros(1, 4, 4, 1, dtype=torch.uint8)
    assert torch.equal(LargestComponentd("pred", compact=[1])({"pred": empty})["pred"], empty)
