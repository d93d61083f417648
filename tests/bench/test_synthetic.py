"""Synthetic heads in thick slices: whole slices only, each where its voxels were."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.bench.synthetic import Acquisition, synthetic_studies
from medvit.studies.labels import load_label_table
from tests.phantoms import write_head


@pytest.mark.parametrize(("thickness", "slices"), [(1, 20), (3, 6), (7, 2)])
def test_a_slice_that_does_not_fit_is_left_out(tmp_path: Path, thickness: int, slices: int) -> None:
    (tmp_path / "maps").mkdir()
    write_head(tmp_path / "maps" / "head_1.nii.gz")
    [study] = synthetic_studies(
        load_label_table("brain"),
        tmp_path / "maps",
        tmp_path / "made",
        held_out=["head"],
        acquisitions=[Acquisition("T1", 8.0, thickness)],
    )
    image, labels = nib.load(study.image), nib.load(study.references[0].path)
    assert image.shape == labels.shape == (20, 24, slices)
    np.testing.assert_array_equal(image.affine, labels.affine)
    np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), (8, 8, 8 * thickness))
