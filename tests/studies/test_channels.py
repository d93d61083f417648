"""Files are grouped by the naming of nnU-Net, BraTS and BIDS."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.studies.channels import canonical, group, split_channel, stem_of, why_not_an_image


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("a.NII.GZ", "a"), ("a.b.mha", "a.b"), ("scan", "scan"), ("x.tar", "x")],
)
def test_a_stem_has_no_suffix(name: str, stem: str) -> None:
    assert stem_of(Path("folder.nii") / name) == stem


@pytest.mark.parametrize(
    ("word", "one"),
    [
        ("T1ce", "t1c"),
        ("t1-Gd", "t1c"),
        ("T1w", "t1n"),
        ("FLAIR", "t2f"),
        ("T2_FLAIR", "t2f"),
        ("Liver!", "liver"),
    ],
)
def test_spellings_of_a_contrast_are_one_word(word: str, one: str) -> None:
    assert canonical(word) == one


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("liver_0000", ("liver", "0")),
        ("liver_00000", ("liver_00000", None)),
        ("0001", ("0001", None)),
        ("BraTS20_001_t1ce", ("BraTS20_001", "t1c")),
        ("sub-1_T2w", ("sub-1", "t2w")),
        ("sub-1_ce-gad_FLAIR", ("sub-1_ce-gad", "t2f")),
        ("sub-1_ce-gad_run-2_T1w", ("sub-1_run-2", "t1c")),
        ("t1", ("", "t1n")),
        ("patient.ct", ("patient", "ct")),
        ("patient_post", ("patient_post", None)),
    ],
)
def test_a_name_is_split_into_its_study_and_its_channel(stem: str, expected: tuple[str, str | None]) -> None:
    assert split_channel(stem) == expected


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("labelsTr/a.nii.gz", "the folder labelsTr holds results or label maps"),
        ("derivatives/x/a.nii.gz", "the folder derivatives holds results or label maps"),
        ("sub-1/func/sub-1_bold.nii.gz", "is func data of a BIDS data set"),
        ("a_seg.nii.gz", "is named as a label map"),
        ("A-Mask.nrrd", "is named as a label map"),
        ("segment.nii.gz", ""),
        ("labels.nii.gz/a.nii.gz", ""),
        ("func/a.nii.gz", ""),
        ("sub-1/anat/sub-1_T1w.nii.gz", ""),
    ],
)
def test_label_maps_and_other_data_are_not_images(path: str, words: str) -> None:
    assert why_not_an_image(Path(path)) == words


def test_channels_of_one_study_come_together() -> None:
    names = ("a/p_t1.nii", "a/p_flair.nii", "b/p_t1.nii", "a/q.nii")
    grouped = group({Path("/data") / name: Path(name) for name in names})
    assert {str(key): {channel: [p.name for p in paths] for channel, paths in found.items()}
            for key, found in grouped.items()} == {
        "a/p": {"t1n": ["p_t1.nii"], "t2f": ["p_flair.nii"]},
        "b/p": {"t1n": ["p_t1.nii"]},
        "a/q": {"": ["q.nii"]},
    }  # fmt: skip
