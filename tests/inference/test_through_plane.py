"""Planes across thick slices through a network: which axis it sees, the mean of both planes, the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.errors import StudyError
from medvit.inference import InPlaneRestorer, ThroughPlaneRestorer
from medvit.networks.blended import HALF_NOISE
from medvit.studies.study import Grid, LoadedStudy, Series
from medvit.transforms.in_plane import pixel_refinement_of, prepare_coarse_pixels
from medvit.transforms.slice_stack import upsampled_non_locally
from medvit.transforms.through_plane import prepare_thick_slices, refinement_of


def _study(axis: int) -> LoadedStudy:
    shape, spacing = [14, 18, 16], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = 5, 4.0
    affine = np.diag([*spacing, 1.0])
    voxels = torch.from_numpy(np.random.default_rng(axis).random(shape).astype(np.float32) * 300)
    image = MetaTensor(voxels[None], affine=torch.from_numpy(affine))
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    return LoadedStudy("case", (Series((), "memory"),), image=image, grid=grid)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_last_axis_of_every_plane_is_the_normal(axis: int) -> None:
    study = _study(axis)
    image = prepare_thick_slices("image", (0.0, 1e9))({"image": study})["image"]
    expected = {14 if a == 0 else 18 if a == 1 else 16 for a in range(3) if a != axis}
    seen = set()

    def network(planes: torch.Tensor) -> torch.Tensor:
        assert planes.shape[3] == 20 and torch.equal(planes[:, 3, 0], planes[:, 3, -1])
        seen.add(planes.shape[2])
        return planes[:, :1]

    restored = ThroughPlaneRestorer((None, None))(image[None], network)[0]
    assert seen == expected
    refinement = refinement_of(study)
    unit = float(image.meta["intensity_unit"])
    samples = refinement.slices(study.image.as_tensor())[0] / unit
    wanted = unit * upsampled_non_locally(samples, refinement.stacks)
    torch.testing.assert_close(restored[0].as_tensor(), wanted, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(restored.affine.numpy(), refinement.grid.affine)


def test_both_planes_count_by_half() -> None:
    image = prepare_thick_slices("image", (0.0, 1e9), 1.0)({"image": _study(2)})["image"]
    # Planes of 18 rows hold the second axis, those of 14 the first one.
    restored = ThroughPlaneRestorer((None, None))(
        image[None], lambda planes: torch.full_like(planes[:, :1], float(planes.shape[2]))
    )
    torch.testing.assert_close(restored.as_tensor(), torch.full_like(restored.as_tensor(), 16.0))


def test_a_consistent_estimate_agrees_with_the_measured_slices() -> None:
    study = _study(1)
    image = prepare_thick_slices("image", (0.0, 1e9))({"image": study})["image"]
    off = []
    for share in (0.0, 1.0):
        inferer = ThroughPlaneRestorer((16, 16), consistent=share)
        restored = inferer(image[None], lambda planes: 0.8 * planes[:, :1])[0].as_tensor()
        off.append(refinement_of(study).inconsistency(restored, study.image.as_tensor()).abs().mean())
    assert off[1] < 0.05 * off[0]


def test_the_less_noise_there_is_the_more_slices_are_given_back() -> None:
    h = HALF_NOISE
    rows, columns, slices = (np.linspace(0, 90, n) for n in (18, 14, 6))
    smooth = 200 + rows[:, None, None] + columns[:, None] + slices
    noise = np.random.default_rng(0).normal(size=smooth.shape)
    given_back = []
    for deviation, half_noise in ((0.0, h), (12.0, h), (60.0, h), (60.0, 100 * h)):
        voxels = torch.from_numpy((smooth + deviation * noise).astype(np.float32))
        affine = np.diag([1.0, 1.0, 4.0, 1.0])
        image = MetaTensor(voxels[None], affine=torch.from_numpy(affine))
        study = LoadedStudy("case", (Series((), "memory"),), image=image, grid=Grid(smooth.shape, affine))
        prepared = prepare_thick_slices("image", (0.0, 1e9))({"image": study})["image"]
        off = []
        for share in (0.0, None):
            inferer = ThroughPlaneRestorer((None, None), consistent=share, half_noise=half_noise)
            restored = inferer(prepared[None], lambda planes: 0.8 * planes[:, :1])[0].as_tensor()
            off.append(float(refinement_of(study).inconsistency(restored, voxels[None]).mean()))
        given_back.append(1 - off[1] / off[0])
    assert given_back[0] > 0.95 and 0.05 < given_back[1] < 0.95 and given_back[2] < 0.02
    assert given_back[3] > 0.95


def test_an_image_that_was_not_refined_is_refused() -> None:
    with pytest.raises(StudyError, match="RefineSlicesd"):
        ThroughPlaneRestorer((None, None))(torch.zeros(1, 2, 8, 8, 8), lambda planes: planes[:, :1])


def test_a_network_within_slices_sees_their_plane_and_keeps_what_was_measured() -> None:
    affine = np.diag([5.0, 2.0, 2.0, 1.0])
    voxels = torch.from_numpy(np.random.default_rng(0).random((3, 8, 10)).astype(np.float32) * 300)
    image = MetaTensor(voxels[None], affine=torch.from_numpy(affine))
    study = LoadedStudy("case", (Series((), "memory"),), image=image, grid=Grid((3, 8, 10), affine))
    prepared = prepare_coarse_pixels("image", (0.0, 1e9))({"image": study})["image"]

    def network(planes: torch.Tensor) -> torch.Tensor:
        assert planes.shape[1:] == (3, 16, 20)
        return planes[:, :1] + 0.1

    plain, kept = (InPlaneRestorer((None, None), consistent=c)(prepared[None], network) for c in (0.0, 1.0))
    unit = float(prepared.meta["intensity_unit"])
    stacks = pixel_refinement_of(study).stacks
    wanted = unit * upsampled_non_locally(voxels / unit, stacks)[None]
    torch.testing.assert_close(plain[0].as_tensor(), wanted + 0.1 * unit, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(kept[0].as_tensor(), wanted, rtol=1e-3, atol=1.0)
