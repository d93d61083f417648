"""Images in memory lie where their headers say, or are refused as files are."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.spm99analyze import Spm99AnalyzeImage

from medvit.errors import MedvitError, StudyError
from medvit.studies.in_memory import study_in_memory

VOXELS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
AFFINE = np.array([[0, -2.0, 0, 40], [2, 0, 0, -30], [0, 0, 3, 12], [0, 0, 0, 1]])


def nifti(**fields: object) -> nib.Nifti1Image:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    for name, value in fields.items():
        image.header[name] = value
    return image


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (nifti(sform_code=0), "nifti-no-orientation"),
        (nib.Nifti1Image(VOXELS, None), "nifti-no-orientation"),
        (nifti(xyzt_units=3), "nifti-units"),
        (nifti(xyzt_units=1), "nifti-units"),
        (nifti(qform_code=1, pixdim=[1, 2, 2, 6, 1, 1, 1, 1]), "nifti-sform-qform"),
    ],
)
def test_a_header_that_a_file_could_not_have_is_refused(image: nib.Nifti1Image, code: str) -> None:
    with pytest.raises(StudyError) as caught:
        study_in_memory(image)
    assert caught.value.code == code and not str(caught.value).startswith("None")


def test_an_image_of_monai_in_the_coordinates_of_itk_is_not_mirrored() -> None:
    in_lps = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    tensor = MetaTensor(
        torch.from_numpy(VOXELS)[None], affine=torch.from_numpy(in_lps), meta={"space": "LPS"}
    )
    np.testing.assert_array_equal(study_in_memory(tensor).grid.affine, AFFINE)


def test_doubts_about_sides_and_units_are_notes() -> None:
    assert study_in_memory(VOXELS, AFFINE).notes == ()
    (note,) = study_in_memory(VOXELS, np.diag([0.01, 0.01, 0.01, 1])).notes
    assert "check the units" in note
    (note,) = study_in_memory(Spm99AnalyzeImage(VOXELS, np.diag([-2.0, 2, 3, 1]))).notes
    assert "left from right" in note


def test_a_nifti_image_lies_where_its_sform_says() -> None:
    assert study_in_memory(nifti()).notes == ()
    np.testing.assert_array_equal(study_in_memory(nifti()).grid.affine, AFFINE)


@pytest.mark.parametrize(
    ("image", "affine", "words"),
    [
        (nib.GiftiImage(), None, "GiftiImage of nibabel is not an image on a grid of voxels"),
        (VOXELS, [[1, 2], [3]], "last row 0, 0, 0, 1"),
        (VOXELS, "RAS", "last row 0, 0, 0, 1"),
        (VOXELS[:0], AFFINE, r"shape \(1, 0, 3, 4\) has no voxels"),
    ],
)
def test_what_is_not_an_image_or_an_affine_is_refused_in_words(
    image: object, affine: np.ndarray | None, words: str
) -> None:
    with pytest.raises(MedvitError, match=words):
        study_in_memory(image, affine)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_that_nibabel_has_opened_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"short{suffix}"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9)), AFFINE), path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(MedvitError, match=rf"short{suffix}: its voxels cannot be read.*fetch the file again"):
        study_in_memory(nib.load(path))


def test_a_last_row_that_rounding_has_touched_is_accepted() -> None:
    rounded = AFFINE.copy()
    rounded[3] = [1e-9, 0, -1e-9, 1 + 1e-7]
    np.testing.assert_array_equal(study_in_memory(VOXELS, rounded).grid.affine, AFFINE)
    assert rounded[3, 0] == 1e-9  # the caller's own matrix stays as it was


def test_a_tensor_of_a_training_is_read() -> None:
    tensor = torch.from_numpy(VOXELS)[None].bfloat16().requires_grad_()
    study = study_in_memory(MetaTensor(tensor, affine=torch.from_numpy(AFFINE)))
    np.testing.assert_array_equal(study.image[0].numpy(), VOXELS)
