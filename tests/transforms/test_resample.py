"""Resampling keeps places and means, and does not alias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from medvit.studies.study import Grid
from medvit.transforms import ResampleImaged, resample_image
from medvit.transforms.resample import resample_labels
from tests.inference.cases import GRIDS, study


def image(values: torch.Tensor, spacing: tuple[float, float, float]) -> dict[str, MetaTensor]:
    return {
        "image": MetaTensor(values, affine=torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)))
    }


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 3.0)])
def test_a_linear_ramp_stays_a_ramp(spacing: tuple[float, float, float]) -> None:
    size = [int(60 / s) for s in spacing]
    ramp = torch.from_numpy(
        sum(np.meshgrid(*[s * np.arange(n) for s, n in zip(spacing, size, strict=True)], indexing="ij"))
    )
    resampled = ResampleImaged("image", (2.0, 2.0, 2.0))(image(ramp[None].float(), spacing))["image"]
    grid = np.indices(resampled.shape[1:]).reshape(3, -1)
    world = (np.asarray(resampled.affine) @ np.vstack([grid, np.ones(grid.shape[1])]))[:3].sum(0)
    inner = np.all((grid > 2) & (grid < np.array(resampled.shape[1:])[:, None] - 3), axis=0)
    np.testing.assert_allclose(resampled.numpy().ravel()[inner], world[inner], atol=1e-3)


def test_the_grid_is_that_of_monai() -> None:
    values = torch.rand(1, 30, 31, 20)
    ours = ResampleImaged("image", (2.0, 2.0, 2.0))(image(values, (0.9, 1.0, 2.5)))["image"]
    theirs = Spacingd("image", (2.0, 2.0, 2.0))(image(values, (0.9, 1.0, 2.5)))["image"]
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-6)


def test_every_second_voxel_does_not_alias() -> None:
    """A checkerboard of single voxels is grey at half the resolution, not black or white."""
    x, y, z = torch.meshgrid(*[torch.arange(24)] * 3, indexing="ij")
    board = ((x + y + z) % 2).float()[None]
    resampled = ResampleImaged("image", (2.0, 2.0, 2.0))(image(board, (1.0, 1.0, 1.0)))["image"]
    assert (resampled[0, 1:-1, 1:-1, 1:-1] - 0.5).abs().max() < 1e-5


def test_a_single_slice_stays_one() -> None:
    resampled = ResampleImaged("image", (2.0, 2.0, 2.0))(image(torch.rand(1, 20, 20, 1), (1.0, 1.0, 1.0)))[
        "image"
    ]
    assert resampled.shape == (1, 10, 10, 1)


@pytest.mark.parametrize("name", GRIDS)
def test_resampling_is_that_of_monai(name: str) -> None:
    image = study(GRIDS[name])
    expected = Spacingd("image", pixdim=(1.3, 0.7, 2.0), mode="bilinear")({"image": image})["image"]
    found = resample_image(image, (1.3, 0.7, 2.0))
    assert found.shape == expected.shape
    assert np.allclose(found.affine, expected.affine, atol=1e-9)
    assert np.allclose(found, expected, atol=1e-4)


def test_labels_go_to_a_coarser_grid_by_their_share_and_nothing_is_invented() -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:4], labels[4:, :4] = 1, 4
    labels[0, 0, 0] = 3  # a speck that covers an eighth of its coarse voxel
    fine = Grid((8, 8, 8), np.eye(4))
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 0.5
    coarse = resample_labels(labels, fine, Grid((4, 4, 4), affine))
    expected = np.zeros((4, 4, 4), np.uint8)
    expected[:2], expected[2:, :2] = 1, 4
    np.testing.assert_array_equal(coarse, expected)
    assert resample_labels(labels, fine, fine) is labels


def test_labels_on_a_turned_grid_are_the_same_voxels() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (6, 7, 8)).astype(np.uint8)
    affine = np.array([[0, 0, -1.5, 9], [0, 1, 0, 3], [2, 0, 0, 0], [0, 0, 0, 1.0]])
    turned = Grid((8, 7, 6), affine @ np.array([[0, 0, -1, 5], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]))
    there = resample_labels(labels, Grid((6, 7, 8), affine), Grid((8, 7, 6), turned.affine))
    np.testing.assert_array_equal(there, labels[::-1].transpose(2, 1, 0))
