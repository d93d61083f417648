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
from medvit.transforms.through_plane import RefineSlicesd, refinement_of

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
