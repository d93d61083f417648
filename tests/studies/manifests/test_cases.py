from __future__ import annotations

from pathlib import Path

import pytest

from medvit.datasets import Manifest, find_cases, read_manifest
from medvit.errors import MedvitError
from medvit.studies.manifests.cases import named_cases
from medvit.studies.manifests.model import Layout, ListedCase
from tests.datasets.folders import nnunet, touch

BRATS = Layout("{case}/{case}_{channel}.nii.gz", label="{case}/{case}_seg.nii.gz")


def manifest(*layouts: Layout, **more: object) -> Manifest:
    channels = more.pop("channels", ("flair", "t1"))
    return Manifest(Path("own.yaml"), "own", channels=channels, layouts=layouts, **more)


def test_channels_come_in_the_manifests_order(tmp_path):
    touch(
        tmp_path, *(f"{case}/{case}_{word}.nii.gz" for case in "ba" for word in ("t1", "flair", "t2", "seg"))
    )
    first, second = find_cases(manifest(BRATS), tmp_path)
    assert (first.id, second.id) == ("a", "b")
    assert [path.name for path in first.images] == ["a_flair.nii.gz", "a_t1.nii.gz"]
    assert first.label == tmp_path / "a/a_seg.nii.gz"


def test_a_missing_channel_is_an_error_and_not_a_smaller_case(tmp_path):
    touch(tmp_path, "a/a_flair.nii.gz", "a/a_seg.nii.gz")
    with pytest.raises(MedvitError, match=r"case a lacks .*a_t1\.nii\.gz"):
        find_cases(manifest(BRATS), tmp_path)
    assert [path.exists() for path in named_cases(manifest(BRATS), tmp_path)[0].images] == [True, False]


def test_label_maps_beside_images_are_no_images(tmp_path):
    touch(tmp_path, "p1_frame01.nii.gz", "p1_frame01_gt.nii.gz", "p1_4d.nii.gz", "._p1_frame01.nii.gz")
    layout = Layout("{case}.nii.gz", label="{case}_gt.nii.gz")
    ids = [case.id for case in named_cases(manifest(layout, channels=("cine",)), tmp_path)]
    assert ids == ["p1_4d", "p1_frame01"]
    stricter = Layout("{case}.nii.gz", label="{case}_gt.nii.gz", case=r"p\d_frame\d\d")
    assert [c.id for c in find_cases(manifest(stricter, channels=("cine",)), tmp_path)] == ["p1_frame01"]


def test_nnunet_folders_with_test_images(tmp_path):
    nnunet(tmp_path)
    touch(tmp_path, "imagesTs/ct_009_0000.nii.gz")
    cases = find_cases(read_manifest(tmp_path), tmp_path)
    assert [(case.id, case.is_labelled) for case in cases] == [
        ("ct_000", True), ("ct_001", True), ("ct_002", True), ("ct_009", False),
    ]  # fmt: skip


def test_images_with_and_without_label_maps_in_one_folder(tmp_path):
    touch(tmp_path, "img/1.nii", "img/2.nii", "lab/1.nii", "lab/3.nii")
    layout = Layout("img/{case}.nii", label="lab/{case}.nii", unlabelled="img/{case}.nii")
    cases = named_cases(manifest(layout, channels=("ct",)), tmp_path)
    assert [(case.id, case.is_labelled) for case in cases] == [("1", True), ("3", True), ("2", False)]
    assert not cases[1].images[0].exists()


def test_one_id_with_and_without_a_label_map_is_refused(tmp_path):
    touch(tmp_path, "imagesTr/1.nii", "labelsTr/1.nii", "imagesTs/1.nii")
    layout = Layout("imagesTr/{case}.nii", label="labelsTr/{case}.nii", unlabelled="imagesTs/{case}.nii")
    with pytest.raises(MedvitError, match="1 is the id of a case with and of one without label map"):
        find_cases(manifest(layout, channels=("ct",)), tmp_path)


def test_two_files_for_one_place_are_refused(tmp_path):
    touch(tmp_path, "x/a.nii", "y/a.nii")
    with pytest.raises(MedvitError, match=r"are both \*/{case}.nii of the case a"):
        find_cases(manifest(Layout("*/{case}.nii"), channels=("ct",)), tmp_path)


def test_the_first_layout_that_fits_is_taken(tmp_path):
    touch(tmp_path, "a/a_flair.nii.gz", "a/a_t1.nii.gz", "a/a_seg.nii.gz")
    other = Layout("imagesTr/{case}_{channel}.nii.gz", channels=("0000", "0001"))
    assert [case.id for case in find_cases(manifest(other, BRATS), tmp_path)] == ["a"]


def test_restoration_pairs_folders(tmp_path):
    touch(tmp_path, "quarter/L1/a.IMA", "full/L1/b.IMA")
    layout = Layout("quarter/{case}", target="full/{case}")
    (case,) = find_cases(manifest(layout, channels=("ct",)), tmp_path)
    assert case.images == (tmp_path / "quarter/L1",) and case.target == tmp_path / "full/L1"
    assert case.label is None and case.is_labelled


def test_splits(tmp_path):
    nnunet(tmp_path)
    splits = {"train": ("*", "!ct_002", "!ct_003", "!ct_004"), "test": ("ct_00[2-9]",), "lost": ("ct_7",)}
    own = Manifest(
        tmp_path / "m.yaml",
        "own",
        layouts=read_manifest(tmp_path).layouts,
        splits=splits,
        split_sizes={"test": 2},
    )
    assert [case.id for case in find_cases(own, tmp_path, "train")] == ["ct_000", "ct_001"]
    with pytest.raises(MedvitError, match="only 1 of the 2 cases of the split 'test'"):
        find_cases(own, tmp_path, "test")
    with pytest.raises(MedvitError, match="'lost' lists ct_7, but there is no such case"):
        find_cases(own, tmp_path, "lost")
    with pytest.raises(MedvitError, match="lists no cases for the split 'val'; it lists train, test, lost"):
        find_cases(own, tmp_path, "val")


def test_listed_cases_lie_in_the_folder_or_beside_the_manifest(tmp_path):
    touch(tmp_path, "data/a.nii", "lists/a_label.nii")
    own = Manifest(
        tmp_path / "lists/own.yaml", "own",
        cases=(ListedCase("a", ("a.nii",), "a_label.nii"), ListedCase("t", ("test.nii",))),
    )  # fmt: skip
    (case,) = find_cases(own, tmp_path / "data")  # the test image was left out, which is no fault
    assert case.images[0] == tmp_path / "data/a.nii" and case.label == tmp_path / "lists/a_label.nii"


def test_the_wrong_folder_is_answered_with_the_right_one(tmp_path):
    touch(tmp_path, "set/a/a_flair.nii.gz", "set/a/a_t1.nii.gz", "set/a/a_seg.nii.gz")
    (tmp_path / "empty").mkdir()
    for folder, complaint in (
        (tmp_path, rf"but {tmp_path}/set does; give that folder"),
        (tmp_path / "set/a", rf"but {tmp_path}/set does; give that folder"),
        (tmp_path / "empty", "is empty; put {case}/{case}_{channel}.nii.gz there"),
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "set/a/a_t1.nii.gz", "is a file; give the folder"),
    ):
        with pytest.raises(MedvitError, match=complaint):
            find_cases(manifest(BRATS), folder)
    touch(tmp_path, "other/readme.txt")
    with pytest.raises(MedvitError, match=r"and there are readme\.txt"):
        find_cases(manifest(Layout("img/{case}.nii.gz")), tmp_path / "other")
