"""Images in memory lie where their headers say, or are refused as files are."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.spm99analyze import Spm99AnalyzeImage

from medvit.errors import StudyError
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
