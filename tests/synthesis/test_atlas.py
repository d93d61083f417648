"""Annotated heads: tissues to paint and structures to learn, and label maps that cannot be used."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.errors import StudyError
from medvit.synthesis import brain_anatomy, read_head_map

ANATOMY = brain_anatomy()
# FreeSurfer's values of the left and right thalamus.
LEFT, RIGHT = 10, 49


def write(path: Path, labels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(labels, np.eye(4) if affine is None else affine), path)
    return path


def two_sides() -> np.ndarray:
    """(20, 16, 12) with 2 x 2 x 2 voxels of the left and 4 x 2 x 2 of the right thalamus."""
    labels = np.zeros((20, 16, 12), np.int16)
    labels[3:5, 6:8, 4:6], labels[10:14, 6:8, 4:6] = LEFT, RIGHT
    return labels


def test_sides_share_a_tissue_and_not_a_structure() -> None:
    assert ANATOMY.tissue_of[LEFT] == ANATOMY.tissue_of[RIGHT]
    names = [ANATOMY.table.structures[ANATOMY.structure_of[v] - 1].name for v in (LEFT, RIGHT)]
    assert names == ["left thalamus", "right thalamus"]
    assert ANATOMY.tissues[0] == "background" and bool(ANATOMY.extracerebral[0])
    assert not ANATOMY.extracerebral[ANATOMY.tissue_of[LEFT]]
    assert [ANATOMY.tissues[i] for i in torch.nonzero(ANATOMY.fluid).flatten()] == ["cerebrospinal fluid"]
    for means in ANATOMY.priors.values():
        known = means[~means.isnan()]
        assert len(means) == len(ANATOMY.tissues) and (known >= 0).all() and (known <= 1).all()


@pytest.mark.parametrize("turned", [False, True])
def test_a_head_is_cropped_with_a_border_and_its_centre_is_that_of_what_is_learnt(
    tmp_path: Path, turned: bool
) -> None:
    image = nib.Nifti1Image(two_sides(), np.eye(4))
    if turned:
        turn = nib.orientations.axcodes2ornt("PSL")
        image = image.as_reoriented(
            nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
        )
    nib.save(image, tmp_path / "a.nii.gz")
    head = read_head_map(tmp_path / "a.nii.gz", ANATOMY)
    assert head.tissue.shape == head.structure.shape == (11 + 2, 2 + 2, 2 + 2)
    assert not head.tissue[0].any() and not head.tissue[-1].any() and not head.tissue[:, :, 0].any()
    assert set(head.tissue.unique().tolist()) == {0, ANATOMY.tissue_of[LEFT]}
    assert (head.structure == ANATOMY.structure_of[RIGHT]).sum() == 16
    # Voxels 1 and 2 hold 4 each, voxels 8 to 11 hold 4 each: (4 * 3 + 4 * 38) / 24.
    assert head.centre.tolist() == pytest.approx([(4 * 3 + 4 * 38) / 24, 1.5, 1.5])


def test_maps_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    cases = {
        "label-map-spacing": (two_sides(), np.diag([1.0, 1.0, 1.2, 1.0])),
        "label-map-values": (np.where(two_sides() == LEFT, 9999, 0).astype(np.int16), None),
        "label-map-empty": (np.zeros((8, 8, 8), np.int16), None),
    }
    for code, (labels, affine) in cases.items():
        with pytest.raises(StudyError, match=r"a\.nii\.gz") as refusal:
            read_head_map(write(tmp_path / "a.nii.gz", labels, affine), ANATOMY)
        assert refusal.value.code == code
    fractions = two_sides() + np.float32(0.4)
    with pytest.raises(StudyError, match="unknown labels"):
        read_head_map(write(tmp_path / "b.nii.gz", fractions), ANATOMY)
