"""Own studies: label maps find their images, and their values their structures."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.bench import own_studies
from medvit.errors import MedvitError
from medvit.studies.labels import load_label_table

TABLE = load_label_table("brain")
THALAMUS = TABLE.by_name["left thalamus"].value


def save(path: Path, *values: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros((6, 6, 6), np.int16)
    voxels[: len(values), 0, 0] = values
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return path


def test_pairs_by_name_compare_what_is_drawn(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", 100)
    save(tmp_path / "b.nii.gz", 100)
    save(tmp_path / "unlabelled.nii.gz", 100)
    label = save(tmp_path / "a_seg.nii.gz", THALAMUS)
    save(tmp_path / "b_seg.nii.gz", 1)
    studies = own_studies(TABLE, tmp_path)
    assert [s.id for s in studies] == ["own_a", "own_b"]
    assert studies[0].references[0].path == label
    for study in studies:  # what is drawn in one study only is compared in the other too
        assert [r.name for r in study.references[0].found] == ["left cerebral white matter", "left thalamus"]


def test_folders_of_nnunet(tmp_path: Path) -> None:
    save(tmp_path / "imagesTr" / "case_7_0000.nii.gz", 100)
    label = save(tmp_path / "labelsTr" / "case_7.nii.gz", THALAMUS)
    (study,) = own_studies(TABLE, tmp_path)
    assert study.references[0].path == label


def test_a_manifest_names_the_values(tmp_path: Path) -> None:
    save(tmp_path / "x.nii.gz", 100)
    save(tmp_path / "y.nii.gz", 7, 9)
    manifest = {
        "name": "mine",
        "labels": {"7": "left thalamus", "9": "a tumour"},
        "cases": [{"id": "x", "image": "x.nii.gz", "label": "y.nii.gz"}],
    }
    (tmp_path / "mine.json").write_text(json.dumps(manifest))
    (study,) = own_studies(TABLE, tmp_path / "mine.json")
    (reference,) = study.references
    assert [(r.name, r.values) for r in reference.drawn] == [("left thalamus", (7,))]
    assert [r.values for r in reference.found] == [(THALAMUS,)]


def test_a_series_of_many_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    save(tmp_path / "y.nii.gz", THALAMUS)
    manifest = {"labels": "brain", "cases": [{"id": "x", "image": "series", "label": "y.nii.gz"}]}
    (tmp_path / "mine.json").write_text(json.dumps(manifest))
    with pytest.raises(MedvitError, match="series: is not one image in one file"):
        own_studies(TABLE, tmp_path / "mine.json")


def test_names_beside_a_label_map(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", 100)
    save(tmp_path / "a_seg.nii.gz", 7)
    with pytest.raises(MedvitError, match=r"a_seg.*not structures of the table 'brain'.*77") as caught:
        save(tmp_path / "a_seg.nii.gz", 77)
        own_studies(TABLE, tmp_path)
    assert "name its values" in str(caught.value)
    (tmp_path / "a_seg.json").write_text(json.dumps({"77": "left thalamus"}))
    (study,) = own_studies(TABLE, tmp_path)
    assert study.references[0].drawn[0].values == (77,)


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="does not exist"):
        own_studies(TABLE, tmp_path / "nowhere")
    save(tmp_path / "a.nii.gz", 100)
    with pytest.raises(MedvitError, match="no image here has a label map"):
        own_studies(TABLE, tmp_path)
    save(tmp_path / "a_seg.nii.gz", 1)
    save(tmp_path / "a_mask.nii.gz", 1)
    with pytest.raises(MedvitError, match="one of several label maps of the study a"):
        own_studies(TABLE, tmp_path)
