"""Thick slices and the finer grid: profiles, half a voxel, worlds that agree, and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.errors import StudyError
from medvit.studies.study import Grid, LoadedStudy, Series
from medvit.transforms.through_plane import RefineSlicesd, SliceStack, along, refinement_of

TURNED = np.array([[0.0, -0.96, 0.28, 0], [1, 0, 0, 0], [0, 0.28, 0.96, 0], [0, 0, 0, 1]])


def _study(
    image: np.ndarray, spacing: tuple[float, float, float], facts: Mapping[str, Any] | None = None
) -> LoadedStudy:
    affine = TURNED @ np.diag([*spacing, 1.0])
    affine[:3, 3] = (-7.0, 11.0, 3.5)
    grid = Grid((image.shape[0], image.shape[1], image.shape[2]), affine)
    tensor = MetaTensor(torch.from_numpy(image.astype(np.float32))[None], affine=torch.from_numpy(affine))
    series = (Series((), "memory", dict(facts or {})),)
    return LoadedStudy("case", series, image=tensor, grid=grid)


def test_an_even_profile_averages_blocks() -> None:
    stack = SliceStack.centred(5, 4.0, 4.0, 1.0)
    values = np.random.default_rng(0).random(20)
    assert stack.size == 20 and stack.first == 1.5
    np.testing.assert_allclose(stack.acquire() @ values, values.reshape(5, 4).mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("profile", ["box", "gauss"])
@pytest.mark.parametrize(("step", "thickness"), [(5.0, 4.0), (3.3, 4.2), (2.0, 2.0)])
def test_a_ramp_comes_back_unshifted(profile: str, step: float, thickness: float) -> None:
    stack = SliceStack.centred(20, step, thickness, 1.0, profile)  # type: ignore[arg-type]
    ramp = np.arange(stack.size, dtype=float)
    slices = stack.acquire() @ ramp
    inside = slice(round(4 * step), -round(4 * step))
    for weights in (stack.interpolate(), stack.refine()):
        np.testing.assert_allclose((weights @ slices)[inside], ramp[inside], atol=0.05)
    np.testing.assert_allclose(stack.acquire().sum(axis=1), 1)


def test_a_gaussian_profile_has_the_thickness_as_its_width_at_half_maximum() -> None:
    weights = SliceStack(1, 6.0, 6.0, 101, 1.0, 50.0, "gauss").acquire()[0]
    assert weights[50 + 3] / weights[50] == pytest.approx(0.5, abs=0.01)


def test_refined_slices_average_to_the_measured_ones() -> None:
    stack = SliceStack.centred(12, 5.0, 4.0, 1.0)
    slices = np.random.default_rng(1).random(12)
    off = [
        np.abs(stack.acquire() @ (w @ slices) - slices).max() for w in (stack.interpolate(), stack.refine())
    ]
    assert off[1] < 0.02 < 0.05 < off[0]


def test_distances_count_from_the_nearest_slice() -> None:
    stack = SliceStack.centred(3, 4.0, 4.0, 1.0)
    expected = np.array([-1.5, -0.5, 0.5, 1.5] * 3) / 4
    np.testing.assert_allclose(stack.distances(), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_point_stays_where_it_is_in_the_patient(axis: int) -> None:
    size = [24, 28, 32]
    size[axis] = 9
    spacing = [1.0, 1.1, 0.45]
    if axis == 2:
        spacing = [1.0, 0.5, 1.0]
    spacing[axis] = 5.0
    image = np.zeros(size)
    index = [6, 19, 23]
    index[axis] = 2
    image[tuple(index)] = 1
    study = _study(image, (spacing[0], spacing[1], spacing[2]))
    refinement = refinement_of(study)
    refined = refinement.interpolated(study.image.as_tensor())[0].numpy().clip(0)
    assert refined.shape == refinement.grid.shape and refinement.axis == axis and refinement.assumed
    kept = refined > 0.1 * refined.max()
    centroid = [np.average(i, weights=refined[kept]) for i in np.nonzero(kept)]
    found = (refinement.grid.affine @ [*centroid, 1])[:3]
    np.testing.assert_allclose(found, (study.grid.affine @ [*index, 1])[:3], atol=0.25)
    np.testing.assert_allclose(refinement.grid.spacing, [1.0 if s != 1.1 else 1.1 for s in spacing], atol=0.5)


def test_the_finer_grid_spans_what_the_slices_span() -> None:
    study = _study(np.zeros((20, 20, 8)), (1.0, 1.0, 6.0))
    grid = refinement_of(study).grid
    assert grid.shape == (20, 20, 48)
    first = np.linalg.inv(study.grid.affine) @ grid.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(first[:3], [0, 0, -0.5 + 0.5 / 6], atol=1e-9)


def test_the_thickness_is_that_of_the_header_and_the_step_that_of_the_positions() -> None:
    image = np.zeros((10, 10, 6))
    gaps = refinement_of(_study(image, (1, 1, 6.0), {"slice_thickness": 5.0}))
    assert (gaps.stack.step, gaps.stack.thickness, gaps.assumed) == (6.0, 5.0, False)
    impossible = refinement_of(_study(image, (1, 1, 6.0), {"slice_thickness": 0.1}))
    assert (impossible.stack.thickness, impossible.assumed) == (6.0, True)


def test_interpolated_pixels_are_named() -> None:
    image = np.zeros((256, 16, 6))
    for acquired, named in ((128.0, True), (224.0, False), (None, False)):
        facts = {"acquisition_matrix": acquired}
        said = refinement_of(_study(image, (1, 1, 6.0), facts)).describe()
        assert ("128 acquired, 256 shown" in said) is named and "6 mm apart" in said


def test_inconsistency_tells_where_an_image_contradicts_the_slices() -> None:
    study = _study(np.ones((10, 10, 6)), (1, 1, 4.0))
    refinement, source = refinement_of(study), study.image.as_tensor()
    estimate = refinement.estimated(source)
    assert refinement.inconsistency(estimate, source).abs().max() < 1e-5
    wrong = estimate.clone()
    wrong[..., 8:12] += 0.5
    found = refinement.inconsistency(wrong, source)
    assert found.shape == estimate.shape
    np.testing.assert_allclose(found[0, 0, 0].numpy(), np.repeat([0, 0, 0.5, 0, 0, 0], 4), atol=1e-5)


def test_a_network_is_given_the_image_and_the_distances_on_the_finer_grid() -> None:
    study = _study(np.random.default_rng(2).random((10, 12, 7)), (1, 1, 3.0))
    sample = RefineSlicesd("image")({"image": study.image, "image_study": study})
    image = sample["image"]
    assert image.shape == (4, 10, 12, 21) and image.meta["refinement"].axis == 2
    sharp, smooth, refined, distances = image.numpy()
    np.testing.assert_allclose(distances[0, 0, :3], [-0.25, 0, 0.25], atol=1e-6)
    measured, stack = study.image[0].numpy(), refinement_of(study).stack
    np.testing.assert_allclose(refined, measured @ stack.refine().T, atol=1e-5)
    np.testing.assert_allclose(sharp @ stack.acquire().T, measured, atol=0.02)
    assert smooth.std() < sharp.std() - 0.002 and smooth.mean() == pytest.approx(sharp.mean(), abs=0.02)
    np.testing.assert_allclose(image.affine.numpy(), refinement_of(study).grid.affine)


@pytest.mark.parametrize(
    ("shape", "spacing", "code"),
    [
        ((20, 20, 20), (1.0, 1.0, 1.2), "not-thick"),
        ((20, 20, 1), (1.0, 1.0, 5.0), "not-thick"),
        ((20, 20, 20), (2.0, 2.0, 4.0), "coarse-pixels"),
    ],
)
def test_what_cannot_be_refined_is_refused(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], code: str
) -> None:
    with pytest.raises(StudyError) as caught:
        refinement_of(_study(np.zeros(shape), spacing))
    assert caught.value.code == code


def test_along_an_axis() -> None:
    image = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(along(np.ones((1, 3)), image, 1), image.sum(dim=1, keepdim=True))
