"""`LoadStudyd`: a study in a chain of transforms, whose inverse leads back onto its own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Compose, Invertd, Orientationd

from medvit.errors import StudyError
from medvit.studies import write_label_map
from medvit.studies.nifti import read_header, read_image
from medvit.studies.study import LoadedStudy, Series, Study
from medvit.transforms import LoadStudyd
from tests.studies.nifti_cases import VOXELS, sound

RAS = (("L", "R"), ("P", "A"), ("I", "S"))


def test_a_chain_goes_out_and_back(tmp_path: Path) -> None:
    labels = (VOXELS > 2000).astype(np.int16)
    (tmp_path / "a.nii").write_bytes(sound(labels))
    orient = Orientationd("image", "RAS", labels=RAS)
    chain = Compose([LoadStudyd("image"), orient])
    data = chain({"image": tmp_path / "a.nii"})
    assert data["image"].affine[0, 0] > 0
    study = data["image_study"]
    assert isinstance(study, LoadedStudy) and study.id == "a"
    back = Invertd("image", orient)(data)["image"][0].numpy().astype(np.uint8)
    path = write_label_map(tmp_path / "labels.nii.gz", back, study)
    np.testing.assert_array_equal(read_image(read_header(path))[0], labels)


def test_it_takes_studies_paths_and_lists(tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / f"{number}.nii").write_bytes(sound(VOXELS * (number + 1)))
    study = Study("a", tuple(Series((tmp_path / f"{n}.nii",), "nifti") for n in (0, 1)))
    paths = [tmp_path / "0.nii", str(tmp_path / "1.nii")]
    for given in (study, paths):
        assert LoadStudyd("image")({"image": given})["image"].shape == (2, *VOXELS.shape)
    with pytest.raises(StudyError, match="holds 2 studies"):
        LoadStudyd("image")({"image": tmp_path})
