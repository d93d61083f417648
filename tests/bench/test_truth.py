"""Real images made coarse: where the samples lie, what noise they have, and what counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.bench.truth import RestoreOptions, foreground, make_truth
from medvit.errors import MedvitError, StudyError
from medvit.studies import find_studies
from medvit.transforms.in_plane import pixel_refinement_of
from medvit.transforms.through_plane import refinement_of
from tests.bench.heads import write_textured_head


def test_the_thick_study_lies_where_the_truth_lies(tmp_path: Path) -> None:
    study = find_studies(write_textured_head(tmp_path / "head.nii.gz")).studies[0]
    truth = make_truth(study, RestoreOptions(factor=3, plane="axial", noise=0.0))
    assert truth.image.shape == (40, 40, 39) and truth.samples.shape == (40, 40, 13)
    np.testing.assert_allclose(np.abs(truth.grid.affine[2, :3]), [0, 0, 1])
    refinement = refinement_of(truth.coarse_study)
    assert refinement.grid.matches(truth.grid)


def test_the_study_of_coarse_pixels_lies_where_the_truth_lies(tmp_path: Path) -> None:
    study = find_studies(write_textured_head(tmp_path / "head.nii.gz")).studies[0]
    truth = make_truth(study, RestoreOptions(in_plane=True, cut=33))
    assert truth.image.shape == (32, 32, 33) and truth.samples.shape == (16, 16, 33)
    assert pixel_refinement_of(truth.coarse_study).grid.matches(truth.grid)
    # The mean of a slice is a spatial frequency of 0, which is measured.
    np.testing.assert_allclose(truth.samples.mean((0, 1)), truth.image.mean((0, 1)), atol=0.003)


def test_a_factor_too_coarse_for_the_study_is_refused(tmp_path: Path) -> None:
    study = find_studies(write_textured_head(tmp_path / "head.nii.gz")).studies[0]
    for options, words in (
        (RestoreOptions(factor=200), "too few voxels for two slices, 200 voxels apart.*smaller --factor"),
        (RestoreOptions(factor=30, in_plane=True), "two pixels along an axis of a slice, 30 voxels apart"),
    ):
        with pytest.raises(StudyError, match=words):
            make_truth(study, options)
    with pytest.raises(MedvitError, match="those of slices, not of pixels"):
        RestoreOptions(in_plane=True, thickness=3.0)


def test_noise_is_rician_and_comes_after_the_slices(tmp_path: Path) -> None:
    study = find_studies(write_textured_head(tmp_path / "head.nii.gz")).studies[0]
    quiet, loud = (make_truth(study, RestoreOptions(noise=n)).samples for n in (0.0, 0.1))
    air = quiet < 1e-3
    assert loud[air].mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.05)


def test_air_does_not_count() -> None:
    image = np.zeros((20, 20, 20))
    image[5:15, 5:15, 5:15] = 1
    image[8:12, 8:12, 8:12] = 0
    image[1, 1, 1] = 1
    found = foreground(image)
    assert found[7:13, 7:13, 7:13].all() and not found[:5].any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"factor": 1}, "at least 2 voxels apart, not 1"),
        ({"profile": "sinc"}, "the profile is box or gauss, not 'sinc'"),
        ({"plane": "oblique"}, "the plane is sagittal, coronal, axial, not 'oblique'"),
        ({"noise": 1.0}, "below 1, not 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, said: str) -> None:
    with pytest.raises(MedvitError, match=said):
        RestoreOptions(**options)


def test_steps_are_four_slices_or_two_pixels() -> None:
    assert [RestoreOptions().step, RestoreOptions(in_plane=True).step, RestoreOptions(factor=3).step] == [
        4,
        2,
        3,
    ]


def test_thick_slices_are_means_of_thin_ones(tmp_path: Path) -> None:
    study = find_studies(write_textured_head(tmp_path / "head.nii.gz")).studies[0]
    truth = make_truth(study, RestoreOptions(factor=4))
    means = truth.image.reshape(40, 40, 10, 4).mean(axis=3)
    np.testing.assert_allclose(truth.samples, means, atol=1e-4)
    perfect = truth.scores(truth.image)
    assert perfect["ssim"] == pytest.approx(1) and perfect["nrmse"] == 0 and np.isinf(perfect["psnr_db"])


def test_coarse_images_cannot_stand_for_the_truth(tmp_path: Path) -> None:
    study = find_studies(write_textured_head(tmp_path / "head.nii.gz", 1.5)).studies[0]
    with pytest.raises(StudyError, match=r"voxels of 1\.5 mm are too coarse to stand for the truth"):
        make_truth(study, RestoreOptions())
