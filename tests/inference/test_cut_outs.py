"""Small structures in cut-outs of a larger image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.errors import StudyError
from medvit.inference import CutOutInferer
from medvit.studies.study import Grid

# Two blocks, each of a dark and a bright half along the second axis; levels differ between the blocks.
BLOCKS = {"left thing": (slice(20, 32), 30.0), "right thing": (slice(70, 82), 300.0)}
VALUES = {"left thing": [3, 5], "right thing": [4, 6]}


def scene() -> MetaTensor:
    image = torch.zeros(1, 100, 60, 50)
    for x, level in BLOCKS.values():
        image[0, x, 20:32, 18:30] = level
        image[0, x, 32:42, 18:30] = 2 * level
    affine = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-50.0, -30.0, -20.0])
    return MetaTensor(image, affine=affine)


def finder(image: MetaTensor) -> dict[str, np.ndarray]:
    found = {}
    for name, (x, _) in BLOCKS.items():
        mask = np.zeros(image.shape[1:], bool)
        mask[x, 20:42, 18:30] = image[0, x, 20:42, 18:30].numpy() > 0
        found[name] = np.argwhere(mask) @ np.eye(3) + image.affine[:3, 3].numpy()
    return found


def halves(windows: Tensor) -> Tensor:
    """Classes by intensities of 0..1: below a quarter background, up to three quarters 1, above 2."""
    classes = (windows > 0.25).long() + (windows > 0.75).long()
    return 10 * torch.nn.functional.one_hot(classes[:, 0], 3).movedim(-1, 1).float()


def inferer(**options: object) -> CutOutInferer:
    return CutOutInferer(
        (32, 32, 32), **{"finder": finder, "values": VALUES, "alone": [1, 2], "margin": 4.0, **options}
    )


def test_each_structure_has_its_own_values_and_its_own_scale() -> None:
    labels = inferer()(scene()[None], halves)[0, 0].numpy()
    expected = np.zeros((100, 60, 50), np.uint8)
    for name, (x, _) in BLOCKS.items():
        expected[x, 20:32, 18:30], expected[x, 32:42, 18:30] = VALUES[name]
    np.testing.assert_array_equal(labels, expected)


def test_labels_go_into_any_grid() -> None:
    tool, image = inferer(), scene()
    grid = Grid((60, 100, 25), np.array([[0, -1, 0, 49.0], [1, 0, 0, -30], [0, 0, 2, -20], [0, 0, 0, 1]]))
    labels = tool.segment(image, halves, grid)
    straight = tool.segment(image, halves)
    np.testing.assert_array_equal(labels, straight[::-1, :, ::2].transpose(1, 0, 2))
    assert tool.report.windows >= 2


def test_an_image_as_small_as_a_cut_out_is_taken_whole() -> None:
    def never(image: MetaTensor) -> dict[str, np.ndarray]:
        raise AssertionError("nothing is to be looked for")

    image = scene()
    small = MetaTensor(image[:, 10:42, 10:50, 10:40].as_tensor(), affine=image.affine)
    labels = inferer(finder=never)(small[None], halves)[0, 0].numpy()
    assert (labels[10:22, 10:22, 8:20] == 1).all() and (labels[10:22, 22:32, 8:20] == 2).all()
    assert set(np.unique(labels)) == {0, 1, 2}


def test_one_side_that_is_not_found_is_left_empty_and_none_is_refused() -> None:
    image = scene()
    image[0, :50] = 0
    labels = inferer()(image[None], halves)
    assert set(labels.unique().tolist()) == {0, 4, 6}
    image[...] = 0
    with pytest.raises(StudyError, match="shows no left thing or right thing"):
        inferer()(image[None], halves)
