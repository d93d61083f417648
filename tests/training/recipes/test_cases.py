"""Cases of recipes: folds, listed ones, and those without a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.training.recipes import (
    case_list,
    listed_fold,
    nnunet_fold,
)
from tests.workflows.data_sets import saved, write_folds, write_nnunet


def test_folds_are_nnunets() -> None:
    cases = [{"case": f"{number:03d}"} for number in range(23)]
    folds = [nnunet_fold(cases, fold) for fold in range(5)]
    assert [len(fold["validation"]) for fold in folds] == [5, 5, 5, 4, 4]
    # By scikit-learn's KFold(5, shuffle=True, random_state=12345).
    assert [case["case"] for case in folds[0]["validation"]] == ["003", "008", "010", "017", "019"]
    held_out = [case["case"] for fold in folds for case in fold["validation"]]
    assert sorted(held_out) == [case["case"] for case in cases]
    assert len(folds[0]["train"]) == 18
    with pytest.raises(MedvitError, match="five or more"):
        nnunet_fold(cases[:4])


def test_folds_by_patient_keep_the_studies_of_one_together() -> None:
    names = [f"1{patient:04d}_{1000000 + study}" for patient in range(7) for study in range(3)]
    cases = [{"filename_or_obj": name} for name in names]
    folds = [nnunet_fold(cases, fold, by_patient=True) for fold in range(5)]
    assert [len(fold["validation"]) for fold in folds] == [6, 6, 3, 3, 3]
    for fold in folds:
        sides = [{case["filename_or_obj"][:5] for case in fold[side]} for side in ("train", "validation")]
        assert not sides[0] & sides[1]
    with pytest.raises(MedvitError, match="4 patients have no fold 0"):
        nnunet_fold(cases[:12], by_patient=True)


def test_a_list_of_folds_holds_one_out(tmp_path: Path) -> None:
    write_folds("brats2021", tmp_path, 3, (8, 8, 8), (1, 1, 1))
    fold = listed_fold(tmp_path / "brats21_folds.json", tmp_path, 1)
    assert [Path(case["label"]).parent.name for case in fold["validation"]] == ["BraTS2021_00001"]
    names = [Path(path).name for path in fold["train"][0]["image"]]
    assert names == [f"BraTS2021_00000_{channel}.nii.gz" for channel in ("flair", "t1ce", "t1", "t2")]
    with pytest.raises(MedvitError, match="no fold 7"):
        listed_fold(tmp_path / "brats21_folds.json", tmp_path, 7)


def test_unlabelled_cases_are_not_trained_on(tmp_path: Path) -> None:
    write_nnunet(tmp_path, 2, 2, (8, 8, 8), (1, 1, 1))
    (tmp_path / "imagesTs").mkdir()
    saved(tmp_path / "imagesTs/other_0000.nii.gz", np.zeros((8, 8, 8), np.float32), np.eye(4))
    assert [item["filename_or_obj"] for item in case_list(tmp_path, tmp_path)] == ["case_000", "case_001"]
