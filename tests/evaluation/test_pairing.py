"""Pairs by the names of studies, and a sentence for whatever has no partner."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.errors import StudyError
from medvit.evaluation import find_pairs
from medvit.studies import write_json
from medvit.studies.done_mark import DONE, void_mark


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_results_of_a_run_meet_references_of_brats(tmp_path: Path) -> None:
    pred = touch(tmp_path / "out", "B-001/labels.nii.gz", "B-001/confidence.nii.gz", "B-002/labels.nii.gz")
    ref = touch(
        tmp_path / "ref", "B-001/B-001-seg.nii.gz", "B-001/B-001-t1c.nii.gz", "B-002/B-002-seg.nii.gz"
    )
    found = find_pairs(pred, ref)
    assert [p.study for p in found.pairs] == ["B-001", "B-002"]
    assert found.pairs[0].prediction == pred / "B-001" / "labels.nii.gz"
    assert found.pairs[0].reference == ref / "B-001" / "B-001-seg.nii.gz"
    assert not found.refused
    assert {thing.path.name for thing in found.left_out} == {"confidence.nii.gz", "B-001-t1c.nii.gz"}


def test_flat_folders_and_names_of_first_channels(tmp_path: Path) -> None:
    pred = touch(tmp_path / "pred", "case_01_0000/labels.nii.gz", "case_0002/labels.nii.gz")
    ref = touch(tmp_path / "ref", "case_01.nrrd", "case_0002.nii")
    assert [p.study for p in find_pairs(pred, ref).pairs] == ["case_0002", "case_01"]


def test_a_reference_without_prediction_is_a_failure_and_not_the_other_way_round(tmp_path: Path) -> None:
    pred = touch(tmp_path / "pred", "a.nii.gz", "extra.nii.gz")
    ref = touch(tmp_path / "ref", "a.nii.gz", "b.nii.gz")
    found = find_pairs(pred, ref)
    assert [p.study for p in found.pairs] == ["a"]
    assert [(r.id, r.error.code) for r in found.refused] == [("b", "no-prediction")]
    assert [thing.path.name for thing in found.left_out] == ["extra.nii.gz"]
    # One prediction asks for its own reference only.
    found = find_pairs(pred / "a.nii.gz", ref)
    assert [p.study for p in found.pairs] == ["a"]
    assert not found.refused


def test_several_label_maps_of_a_study_are_refused(tmp_path: Path) -> None:
    pred = touch(tmp_path / "pred", "a.nii.gz")
    ref = touch(tmp_path / "ref", "reader1/a.nii.gz", "reader2/a.nii.gz")
    [refused] = find_pairs(pred, ref).refused
    assert refused.error.code == "several-label-maps"
    assert "reader1" in str(refused.error)


def test_two_files_are_a_pair_and_partial_files_are_none(tmp_path: Path) -> None:
    folder = touch(tmp_path, "one.nii.gz", "two_seg.nii.gz", "out/.partial-x/labels.nii.gz")
    [pair] = find_pairs(folder / "one.nii.gz", folder / "two_seg.nii.gz").pairs
    assert (pair.study, pair.reference.name) == ("one", "two_seg.nii.gz")
    assert not find_pairs(folder / "out", folder / "out").pairs


def test_a_file_is_not_compared_with_itself(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a.nii.gz", "b.nii.gz")
    assert [r.error.code for r in find_pairs(folder, folder).refused] == ["same-file"] * 2
    touch(tmp_path / "named", "a.nii.gz", "a_seg.nii.gz")
    assert len(find_pairs(folder / "named", folder / "named").left_out) == 1
    with pytest.raises(StudyError, match="is its own reference; give the predictions first"):
        find_pairs(folder / "a.nii.gz", folder / "a.nii.gz")


@pytest.mark.parametrize("name", ["labels.nii.gz", "dicom/seg.nii.gz", "structures/lung_seg.nii.gz"])
def test_results_that_no_longer_count_are_not_compared(tmp_path: Path, name: str) -> None:
    pred, ref = touch(tmp_path / "out" / "a", name).parent, touch(tmp_path / "ref", "a.nii.gz")
    write_json(pred / "a" / DONE, {"made_from": {}, "outputs": {}})
    assert len(find_pairs(pred / "a" / name, ref / "a.nii.gz").pairs) == 1
    void_mark(pred / "a")
    for sides in ((pred / "a" / name, ref / "a.nii.gz"), (ref / "a.nii.gz", pred / "a" / name)):
        with pytest.raises(StudyError, match=r"when it was run again.*run the study again") as caught:
            find_pairs(*sides)
        assert caught.value.code == "void-result" and caught.value.path == pred / "a" / name


@pytest.mark.parametrize(("name", "code"), [("nowhere", "missing-file"), ("notes.txt", "unknown-format")])
def test_what_cannot_be_compared(tmp_path: Path, name: str, code: str) -> None:
    touch(tmp_path, "a.nii.gz", "notes.txt")
    for sides in ((name, "a.nii.gz"), ("a.nii.gz", name)):
        with pytest.raises(StudyError) as caught:
            find_pairs(*(tmp_path / side for side in sides))
        assert caught.value.code == code
