"""Coarse pixels and the finer grid in the plane: position, what was measured, the way back, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.errors import StudyError
from medvit.studies.study import Grid, LoadedStudy, Series
from medvit.transforms.in_plane import pixel_refinement_of, prepare_coarse_pixels, refinement_to
from medvit.transforms.slice_stack import SliceStack
from medvit.transforms.through_plane import refinement_of


def _study(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], facts: Mapping[str, Any] | None = None
) -> LoadedStudy:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-7.0, 11.0, 3.5)
    voxels = torch.from_numpy(np.random.default_rng(0).random(shape).astype(np.float32) + 1)
    image = MetaTensor(voxels[None], affine=torch.from_numpy(affine))
    series = (Series((), "memory", dict(facts or {})),)
    return LoadedStudy("case", series, image=image, grid=Grid(shape, affine))


@pytest.mark.parametrize("count", [8, 9])
def test_cut_off_k_space_is_what_the_fourier_transform_gives(count: int) -> None:
    size = 2 * count
    stack = SliceStack(count, 2.0, 2.0, size, 1.0, 0.0, "kspace")
    signal = np.random.default_rng(count).random(size)
    spectrum = np.fft.fftshift(np.fft.fft(signal))
    first = size // 2 - count // 2
    coarse = np.fft.ifft(np.fft.ifftshift(spectrum[first : first + count])).real / 2
    np.testing.assert_allclose(stack.acquire() @ signal, coarse, atol=1e-12)
    # Whatever a scanner measures, an estimate must show again.
    measured = np.random.default_rng(1).random(count)
    np.testing.assert_allclose(stack.acquire() @ stack.refine() @ measured, measured, atol=2e-3)
    # The first coarse pixel lies where the first fine one lies.
    np.testing.assert_allclose((stack.zero_fill() @ measured)[::2], measured, atol=1e-12)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 5.0), (2.0, 5.0, 1.9), (1.0, 2.0, 2.0), (2.0, 2.0, 2.0)])
def test_pixels_are_halved_in_the_plane_alone(spacing: tuple[float, float, float]) -> None:
    study = _study((6, 8, 10), spacing)
    refinement = pixel_refinement_of(study)
    normal = {(2.0, 5.0, 1.9): 1, (1.0, 2.0, 2.0): 0}.get(spacing, 2)
    assert refinement.axis == normal and set(refinement.stacks) == {0, 1, 2} - {normal}
    edges = [s if a == normal else s / 2 for a, s in enumerate(spacing)]
    np.testing.assert_allclose(refinement.grid.spacing, edges)
    np.testing.assert_allclose(refinement.grid.affine[:3, 3], study.grid.affine[:3, 3])
    image = study.image.as_tensor()
    fine = refinement.estimated(image)
    assert fine.shape[1:] == refinement.grid.shape
    torch.testing.assert_close(refinement.acquired(fine), image, atol=1e-2, rtol=0)
    assert refinement.inconsistency(fine, image).abs().max() < 1e-2
    assert "2" in refinement.describe() and "estimate" in refinement.describe()


def test_the_way_to_a_grid_is_found_again() -> None:
    coarse, thick = _study((6, 8, 10), (2.0, 2.0, 5.0)), _study((6, 8, 10), (1.0, 1.0, 4.0))
    for study, refinement in ((coarse, pixel_refinement_of(coarse)), (thick, refinement_of(thick))):
        found = refinement_to(study, refinement.grid)
        assert found.grid.matches(refinement.grid) and set(found.stacks) == set(refinement.stacks)


def test_the_input_of_a_network_shows_the_measured_pixels() -> None:
    study = _study((6, 8, 10), (2.0, 2.0, 5.0))
    image = prepare_coarse_pixels("image", (0.0, 1e9), 1.0)({"image": study})["image"]
    assert image.shape == (3, 12, 16, 10)
    np.testing.assert_allclose(image.affine.diagonal()[:3], [1, 1, 5])
    refined = pixel_refinement_of(study).estimated(study.image.as_tensor())
    torch.testing.assert_close(image[2:].as_tensor(), refined, rtol=1e-4, atol=1e-5)
    for shown in image:
        assert shown.mean() == pytest.approx(float(study.image.mean()), rel=1e-2)


@pytest.mark.parametrize(
    ("spacing", "facts", "words"),
    [
        ((1.0, 1.0, 5.0), {}, "too fine to be made finer"),
        ((3.0, 3.0, 5.0), {}, "coarser than those of the training"),
        (
            (2.0, 2.0, 5.0),
            {"acquisition_matrix": 4},
            r"already interpolated its pixels \(4 acquired, 8 shown",
        ),
    ],
)
def test_what_cannot_be_made_finer_is_refused(
    spacing: tuple[float, float, float], facts: dict[str, Any], words: str
) -> None:
    with pytest.raises(StudyError, match=words):
        pixel_refinement_of(_study((6, 8, 10), spacing, facts))
