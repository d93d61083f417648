"""Studies of the bench against their references: same grid, means over raters, absolute errors."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.bench.studies import Reference, check_references, compare, unsided_region
from medvit.errors import StudyError
from medvit.evaluation.structures import ScoredStructure
from medvit.studies import only_study
from medvit.studies.labels import load_label_table

BALL = (ScoredStructure("ball", (1,)),)


def write(path: Path, stop: int, affine: np.ndarray | None = None) -> Path:
    """A block of 10 x 10 x (stop - 5) voxels of 1 mm."""
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:15, 5:15, 5:stop] = 1
    nib.save(nib.Nifti1Image(labels, np.eye(4) if affine is None else affine), path)
    return path


def test_both_sides_count_as_one_structure() -> None:
    table = load_label_table("brain")
    region = unsided_region(table, "thalamus", "putamen")
    expected = {s.value for s in table if s.name.split(" ", 1)[1:] in (["thalamus"], ["putamen"])}
    assert (region.name, set(region.values)) == ("thalamus", expected) and len(expected) == 4


def test_scores_are_means_over_raters_and_errors_do_not_cancel(tmp_path: Path) -> None:
    prediction = write(tmp_path / "labels.nii.gz", 15)
    smaller, larger = write(tmp_path / "1.nii.gz", 13), write(tmp_path / "2.nii.gz", 17)
    references = [Reference("manual", path, BALL, BALL) for path in (smaller, larger)]
    references.append(Reference("other", prediction, BALL, BALL))
    found = compare("a", prediction, references)
    assert list(found) == ["manual", "other"]
    values = found["manual"].values["ball"]
    # Of 10 slices 8 and 12 were drawn: Dice 16/18 and 20/22, errors +25 and -16.7 %.
    assert values["dice"] == pytest.approx((16 / 18 + 20 / 22) / 2)
    assert values["volume_error_percent"] == pytest.approx((25 - 100 / 6) / 2)
    assert values["volume_off_percent"] == pytest.approx((25 + 100 / 6) / 2)
    assert found["other"].values["ball"]["dice"] == 1 and found["manual"].study == "a"


def test_references_on_another_grid_are_refused_from_their_headers(tmp_path: Path) -> None:
    study = only_study(write(tmp_path / "scan.nii.gz", 15))
    check_references(study, [Reference("manual", write(tmp_path / "same.nii.gz", 12), BALL, BALL)])
    moved, coarse = np.eye(4), np.diag([2.0, 2, 2, 1])
    moved[0, 3] = 3
    for affine, match in ((moved, "of equal size, but elsewhere"), (coarse, "2 x 2 x 2|2.0")):
        reference = Reference("manual", write(tmp_path / "other.nii.gz", 12, affine), BALL, BALL)
        with pytest.raises(StudyError, match=match) as refusal:
            check_references(study, [reference])
        assert refusal.value.code == "other-grid" and refusal.value.path == tmp_path / "other.nii.gz"
