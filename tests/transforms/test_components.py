"""Specks go, structures stay."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.studies.labels import load_label_table
from medvit.transforms import LargestComponentd
from medvit.transforms.brain import clean_brain_labels
from medvit.transforms.components import Places


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


@pytest.mark.parametrize("axes", ["RAS", "PIL"])
def test_a_part_in_its_place_is_kept_before_a_larger_one(axes: str) -> None:
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[5:55, 5:55, 5:55] = 1
    labels[25:35, 25:35, 25:35] = 2  # the anchor, its middle at 29.5
    labels[40:44, 28:32, 28:32] = 3  # where structure 3 belongs, 12 voxels to the right
    labels[8:14, 28:34, 28:34] = 3  # larger, on the other side
    places = Places(frozenset({2}), {3: (24.0, 0.0, 0.0)})
    image = nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
    )
    turned = image.as_reoriented(turn)
    tensor = MetaTensor(torch.from_numpy(np.asarray(turned.dataobj).copy())[None], affine=turned.affine)
    cleaned = LargestComponentd("pred", [2, 3], places)({"pred": tensor})["pred"][0].numpy()
    found = np.asarray(nib.as_closest_canonical(nib.Nifti1Image(cleaned, turned.affine)).dataobj)
    expected = labels.copy()
    expected[8:14, 28:34, 28:34] = 1
    assert np.array_equal(found, expected)
    by_size = LargestComponentd("pred", [2, 3])({"pred": tensor})["pred"]
    assert (by_size == 3).sum() == 6**3


def test_the_only_part_stays_wherever_it_lies() -> None:
    labels = np.zeros((40, 20, 20), np.uint8)
    labels[2:38, 2:18, 2:18] = 1
    labels[4:8, 8:12, 8:12] = 3
    tensor = MetaTensor(torch.from_numpy(labels)[None], affine=torch.eye(4))
    for anchors in ({1}, {2}):  # the second has no voxel
        places = Places(frozenset(anchors), {3: (100.0, 0.0, 0.0)})
        cleaned = LargestComponentd("pred", [3], places)({"pred": tensor})["pred"]
        assert np.array_equal(cleaned[0].numpy(), labels)


def test_a_structure_that_may_lie_in_parts_keeps_those_in_its_place() -> None:
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[2:58, 2:58, 2:58] = 1
    labels[25:35, 25:35, 25:35] = 2  # the anchor, its middle at 29.5
    labels[40:46, 27:33, 27:33] = 3  # where structure 3 belongs
    labels[40:44, 14:18, 27:33] = 3  # separate, 14 mm away
    labels[48:50, 28:30, 28:30] = 3  # a speck
    labels[4:10, 27:33, 27:33] = 3  # on the wrong side
    places = Places(frozenset({2}), {3: (13.0, 0.0, 0.0)}, in_parts=frozenset({3}))
    tensor = MetaTensor(torch.from_numpy(labels)[None], affine=torch.eye(4))
    cleaned = LargestComponentd("pred", [2, 3], places)({"pred": tensor})["pred"][0].numpy()
    expected = labels.copy()
    expected[48:50, 28:30, 28:30] = expected[4:10, 27:33, 27:33] = 1
    assert np.array_equal(cleaned, expected)


def test_the_whole_is_where_structures_belong_and_keeps_a_separate_one() -> None:
    labels = np.zeros((80, 40, 60), np.uint8)
    labels[5:30, 5:35, 30:55] = 1
    labels[12:22, 15:25, 38:48] = 2  # the anchor, its middle at (16.5, 19.5, 42.5)
    labels[45:78, 2:38, 2:58] = 1  # larger, beside the head
    labels[60:64, 10:14, 10:14] = 3  # in it, far from its place
    labels[14:20, 16:22, 10:16] = 3  # below a slice without labels, where it belongs
    labels[14:20, 16:22, 2:6] = 4  # there is one in the head
    labels[24:28, 16:22, 40:44] = 4
    places = Places(frozenset({2}), {2: (0, 0, 0), 3: (0, 0, -30), 4: (10, 0, 0)})
    tensor = MetaTensor(torch.from_numpy(labels)[None], affine=torch.eye(4))
    cleaned = LargestComponentd("pred", [2, 3, 4], places)({"pred": tensor})["pred"][0].numpy()
    expected = labels.copy()
    expected[45:] = 0
    expected[14:20, 16:22, 2:6] = 0
    assert np.array_equal(cleaned, expected)
    by_size = LargestComponentd("pred", [2, 3, 4])({"pred": tensor})["pred"]
    assert by_size[0, :45].sum() == 0


def test_brain_structures_belong_on_their_own_sides() -> None:
    table, places = load_label_table("brain"), clean_brain_labels("pred").places
    assert places is not None
    for left, right in table.pairs():
        if right.value in places.offsets:
            x, *rest = places.offsets[right.value]
            assert x > 0 and places.offsets[left.value] == (-x, *rest)
