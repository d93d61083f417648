"""Loading: one MetaTensor a study, its affine in RAS mm, and back onto the source grid voxel for voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from medvit.errors import StudyError
from medvit.studies import find_studies, read_study, write_label_map
from medvit.studies.nifti import read_header, read_image
from medvit.studies.study import Grid, Series, Study
from tests.studies.dicom.hazards import write_all
from tests.studies.dicom.synthetic import assert_right, made_up
from tests.studies.nifti_cases import AFFINE, VOXELS, patched, sound

RAS = (("L", "R"), ("P", "A"), ("I", "S"))


def study_of(*contents: bytes, folder: Path) -> Study:
    series = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.nii"
        path.write_bytes(content)
        series.append(Series((path,), "nifti"))
    return Study("a", tuple(series))


def test_image_has_the_source_order_and_affine(tmp_path: Path) -> None:
    study = read_study(study_of(sound(), folder=tmp_path))
    assert isinstance(study.image, MetaTensor) and study.grid is not None
    assert study.image.shape == (1, *VOXELS.shape) and study.image.dtype == torch.float32
    np.testing.assert_array_equal(study.image[0].numpy(), VOXELS)
    np.testing.assert_allclose(study.image.affine.numpy(), AFFINE, atol=1e-6)
    assert study.grid.matches(Grid(VOXELS.shape, AFFINE))


def test_single_slice_keeps_its_axis(tmp_path: Path) -> None:
    study = read_study(study_of(sound(VOXELS[:, :, 0]), folder=tmp_path))
    assert study.image.shape == (1, 24, 20, 1) and study.grid.shape == (24, 20, 1)


def test_metaimage_and_nifti_of_one_volume_are_one(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(VOXELS.T)
    lps = np.diag([-1, -1, 1]) @ AFFINE[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetDirection((lps[:, :3] / spacing).ravel())
    image.SetOrigin(lps[:, 3])
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    SimpleITK.WriteImage(image, str(tmp_path / "b.nii.gz"))
    one, other = map(read_study, find_studies(tmp_path).studies)
    np.testing.assert_array_equal(one.image.numpy(), other.image.numpy())
    assert one.grid.matches(other.grid) and one.grid.matches(Grid(VOXELS.shape, AFFINE))


def test_channels_of_one_4d_file(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(sound(np.stack([VOXELS, VOXELS * 2, VOXELS * 3], -1)))
    (study,) = find_studies(tmp_path, channels=3).studies
    image = read_study(study).image
    for channel in range(3):
        np.testing.assert_array_equal(image[channel].numpy(), VOXELS * (channel + 1.0))


def test_channels_on_other_grids_are_refused_or_resampled(tmp_path: Path) -> None:
    shifted = AFFINE.copy()
    shifted[:3, 3] += AFFINE[:3, 2] * 2  # two slices on
    study = study_of(sound(), sound(VOXELS[:, :, 2:], affine=shifted), folder=tmp_path)
    with pytest.raises(StudyError, match="channels-grid"):
        read_study(study)
    image = read_study(study, resample=True).image
    np.testing.assert_array_equal(image[0].numpy(), VOXELS)
    np.testing.assert_allclose(image[1, ..., 2:].numpy(), VOXELS[..., 2:], atol=0.05)


def test_dicom_series_from_folder_to_label_map(tmp_path: Path) -> None:
    truth = made_up()
    write_all(truth.datasets(), tmp_path / "Phantom^Anna")
    (study,) = find_studies(tmp_path).studies
    assert study.id.startswith("CT-") and "Anna" not in study.id and study.patient["name"] == "Phantom^Anna"
    assert "P-0042" not in repr(study)
    study = read_study(study, isolate=False)
    assert_right(study.image[0].numpy(), study.grid, truth)
    bone = (study.image[0].numpy() > 500).astype(np.uint8)
    header = read_header(write_label_map(tmp_path / "out" / study.id / "labels.nii.gz", bone, study))
    assert header.grid.matches(study.grid) and not header.notes
    np.testing.assert_array_equal(read_image(header)[0], bone)


def test_decisions_are_noted_once(tmp_path: Path) -> None:
    content = patched((80, "3f", (0, 0, 0)))
    assert len(read_study(study_of(content, content, folder=tmp_path)).notes) == 1


def test_spacing_after_a_sheared_affine_keeps_places(tmp_path: Path) -> None:
    # A blob must stay where it is in the patient when a sheared grid is resampled onto an upright one.
    sheared = np.diag([1.0, 1, 1, 1])
    sheared[0, 2] = 0.5
    blob = np.zeros((30, 20, 20), np.float32)
    blob[9:12, 9:12, 13:16] = 1
    (tmp_path / "a.nii").write_bytes(patched((252, "2h", (0, 2)), content=sound(blob, affine=sheared)))
    study = read_study(find_studies(tmp_path / "a.nii").studies[0])
    assert "right angles" in study.notes[0]
    data = Spacingd("image", (1, 1, 1), padding_mode="zeros")({"image": study.image})
    image = data["image"]
    index = np.stack(np.nonzero(image[0].numpy() > 0.5)).mean(1)
    place = image.affine.numpy() @ [*index, 1]
    np.testing.assert_allclose(place[:3], (sheared @ [10, 10, 14, 1])[:3], atol=0.3)
