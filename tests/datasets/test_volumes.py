"""Images of a data set: headers first, voxels on demand, label values counted."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.datasets.volumes import open_volume, value_counts
from medvit.errors import StudyError


def saved(path: Path, voxels: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 2, 3, 1])), path)
    return path


def test_the_header_tells_grid_and_count(tmp_path: Path) -> None:
    series = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    volume = open_volume(saved(tmp_path / "a.nii.gz", series))
    assert (volume.grid.shape, volume.count) == ((2, 3, 4), 5)
    np.testing.assert_allclose(volume.grid.spacing, (1, 2, 3))
    assert np.array_equal(volume.voxels(3), series[..., 3])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_values_are_counted(tmp_path: Path, dtype: type) -> None:
    labels = np.zeros((4, 4, 4), dtype)
    labels[0], labels[1, 0] = 3, 1
    assert value_counts(open_volume(saved(tmp_path / "a.nii", labels))) == {0: 44, 1: 4, 3: 16}


def test_values_that_no_label_map_has_are_counted_as_they_are(tmp_path: Path) -> None:
    labels = np.zeros((2, 2, 2), np.float32)
    labels[0, 0] = [-1, 0.5]
    assert value_counts(open_volume(saved(tmp_path / "a.nii", labels))) == {-1: 1, 0: 6, 0.5: 1}


def test_several_volumes_are_not_a_label_map(tmp_path: Path) -> None:
    volume = open_volume(saved(tmp_path / "a.nii", np.zeros((2, 2, 2, 3), np.uint8)))
    with pytest.raises(StudyError, match="3 volumes where a label map has one"):
        value_counts(volume)


def test_what_is_not_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("not an image")
    with pytest.raises(StudyError, match=r"a\.nii"):
        open_volume(tmp_path / "a.nii")
