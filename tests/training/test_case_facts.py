"""The survey before a training: facts of each case, and all faults at once."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.datasets import find_cases, read_manifest, split_cases
from medvit.errors import MedvitError
from medvit.training.case_facts import ForegroundIntensity, survey
from tests.training.cases import AFFINE, boxes, image_of, write_data


def test_intensities_by_hand() -> None:
    found = ForegroundIntensity.of(np.arange(1001.0))
    assert (found.lower, found.upper, found.mean) == (5.0, 995.0, 500.0)
    assert found.std == pytest.approx(np.sqrt((1001**2 - 1) / 12))
    # A constant image still has a spread to divide by.
    assert ForegroundIntensity.of(np.full(10, 3.0)) == (2.5, 3.5, 3.0, 1.0)


def test_facts_stand_along_the_axes_of_the_patient(tmp_path: Path) -> None:
    path = write_data(tmp_path, 1)
    labels = boxes()
    # Axis 0 now runs to the feet, axis 1 to the left, axis 2 to the front.
    turned = np.zeros((4, 4))
    turned[2, 0], turned[0, 1], turned[1, 2], turned[3, 3] = -3.0, -2.0, 1.5, 1
    for name, array in (("case0_0000.nii.gz", image_of(labels, 0)), ("case0_seg.nii.gz", labels)):
        nib.save(nib.Nifti1Image(array, turned), tmp_path / name)
    manifest = read_manifest(path)
    (facts,) = survey(find_cases(manifest, tmp_path), manifest)
    assert (facts.case, facts.values) == ("case0", {1, 2})
    assert facts.shape == (24, 16, 20) and facts.spacing == pytest.approx((2.0, 1.5, 3.0))
    foreground = np.count_nonzero(labels)
    assert facts.intensities.shape == (1, min(foreground, 10_000))
    # Half noise of 2 around 50 and 100, and no voxel of the dark background.
    assert facts.intensities.min() > 40 and facts.intensities.max() < 110


def test_every_broken_case_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    manifest = read_manifest(write_data(tmp_path, 3))
    nib.save(nib.Nifti1Image(boxes()[:-1], AFFINE), tmp_path / "case0_seg.nii.gz")
    (tmp_path / "case2_0000.nii.gz").write_bytes(b"")
    with pytest.raises(MedvitError, match=r"2 of 3 cases cannot be used(.|\n)*case0: (.|\n)*case2: "):
        survey(find_cases(manifest, tmp_path), manifest)
    said: list[str] = []
    facts = survey(find_cases(manifest, tmp_path), manifest, skip_bad=True, say=said.append)
    assert [one.case for one in facts] == ["case1"]
    assert [line.split(": ")[1] for line in said] == ["case0", "case2"]
    with pytest.raises(MedvitError, match="1 of 1 cases"):
        survey(find_cases(manifest, tmp_path)[:1], manifest, skip_bad=True)


def test_the_same_voxels_are_sampled_again(tmp_path: Path) -> None:
    manifest = read_manifest(write_data(tmp_path, 3))
    training = split_cases(manifest).training
    first, second = survey(training, manifest), survey(training, manifest)
    assert all(np.array_equal(a.intensities, b.intensities) for a, b in zip(first, second, strict=True))
