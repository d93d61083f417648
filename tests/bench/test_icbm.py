"""The template's references: tissues as its maps say, structures as an atlas names them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.bench.icbm import DEEP, TISSUES, template, template_study
from medvit.bench.studies import compare
from medvit.errors import MedvitError
from medvit.studies.labels import load_label_table

TABLE = load_label_table("brain")


def write_atlas(folder: Path, name: str, boxes: dict[str, tuple[int, int]]) -> None:
    """Boxes of 10 mm about x, 0, z in MNI space, on a 2 mm grid that is turned."""
    labels = np.zeros((90, 100, 90), np.int16)
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -110], [0, 0, 2, -70], [0, 0, 0, 1]])
    names = ["nothing"]
    for label, centre in boxes.items():
        names.append(label)
        i, j, k = np.round(np.linalg.inv(affine) @ (centre[0], 0, centre[1], 1))[:3].astype(int)
        labels[i - 2 : i + 3, j - 2 : j + 3, k - 2 : k + 3] = len(names) - 1
    nib.save(nib.Nifti1Image(labels, affine), folder / f"{name}.nii.gz")
    (folder / f"{name}.json").write_text(json.dumps({"labels": names}))


def test_references_of_the_template(tmp_path: Path) -> None:
    atlases = tmp_path / "atlases"
    atlases.mkdir()
    write_atlas(atlases, "first", {"Left-thalamus": (-12, 8), "Right-thalamus": (12, 8), "CaH": (-14, 40)})
    write_atlas(atlases, "second", {"THM": (12, 8), "a gyrus": (60, 0)})
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), atlases / "without_names.nii.gz")
    study = template_study(TABLE, tmp_path, atlases)
    assert [r.group for r in study.references] == [TISSUES, DEEP, DEEP]
    tissues, first, second = study.references
    assert [r.name for r in first.drawn] == ["caudate nucleus", "thalamus"]
    assert [r.name for r in second.drawn] == ["thalamus"]
    grid = nib.load(template("t1"))
    tissue_labels = np.asarray(nib.load(tissues.path).dataobj)
    white = np.asarray(nib.load(template("wm")).dataobj)
    assert (tissue_labels[white > 200] == 1).all()
    assert not (tissue_labels[white < 80] == 1).any()
    drawn = nib.load(first.path)
    np.testing.assert_allclose(drawn.affine, grid.affine)
    world = nib.affines.apply_affine(drawn.affine, np.argwhere(np.asarray(drawn.dataobj) == 1))
    np.testing.assert_allclose(world.mean(axis=0), (-14, 0, 40), atol=1)

    # A prediction with both thalami where the first atlas has them, the second one the right one alone.
    labels = np.zeros(grid.shape, np.uint8)
    thalami = np.asarray(drawn.dataobj) == first.drawn[1].values[0]
    left = np.arange(grid.shape[0])[:, None, None] < grid.shape[0] // 2
    labels[thalami & left] = TABLE.by_name["left thalamus"].value
    labels[thalami & ~left] = TABLE.by_name["right thalamus"].value
    nib.save(nib.Nifti1Image(labels, grid.affine), tmp_path / "labels.nii.gz")
    scores = compare("t", tmp_path / "labels.nii.gz", [first, second])[DEEP]
    assert scores.values["thalamus"]["dice"] == pytest.approx((1 + 2 / 3) / 2, abs=0.01)
    assert scores.values["thalamus"]["volume_error_percent"] == pytest.approx(50, abs=1)
    assert scores.values["caudate nucleus"]["dice"] == 0
    assert scores.values["caudate nucleus"]["volume_off_percent"] == 100


def test_a_folder_without_atlases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="holds no atlas"):
        template_study(TABLE, tmp_path / "work", tmp_path)
