"""Manifests of other programs, read as they mean them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvit.errors import MedvitError
from medvit.studies.manifests.foreign import of_csv, of_decathlon, of_list, of_nnunet

FILE = Path("/data/Task01_Brain/dataset.json")

NNUNET: dict[str, Any] = {
    "channel_names": {"0": "FLAIR", "1": "T1w"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "file_ending": ".nii.gz",
    "numTraining": 3,
}


def nnunet(**changes: Any) -> dict[str, Any]:
    return NNUNET | changes


def test_nnunet_has_its_own_layout() -> None:
    manifest = of_nnunet(FILE, NNUNET)
    (layout,) = manifest.layouts
    assert layout.images == "imagesTr/{case}_{channel}.nii.gz"
    assert layout.label == "labelsTr/{case}.nii.gz"
    assert layout.unlabelled == "imagesTs/{case}_{channel}.nii.gz"
    assert layout.channels == ("0000", "0001")
    assert (manifest.name, manifest.modality, manifest.channels) == ("Task01_Brain", "MR", ("FLAIR", "T1w"))
    assert manifest.expected.labelled == 3
    assert [(s.value, s.name) for s in manifest.labels] == [(1, "liver"), (2, "tumour")]


@pytest.mark.parametrize(
    ("channels", "modality"),
    [({"0": "CT"}, "CT"), ({"0": "T2", "1": "ADC"}, "MR"), ({"0": "CT", "1": "PET"}, ""), ({"0": "us"}, "")],
)
def test_channels_tell_the_modality(channels: dict[str, str], modality: str) -> None:
    assert of_nnunet(FILE, nnunet(channel_names=channels)).modality == modality


def test_the_parts_of_overlapping_regions_are_the_structures() -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    manifest = of_nnunet(FILE, nnunet(labels=labels))
    assert manifest.values == (1, 2, 3) and manifest.ignore == 4
    assert [s.name for s in manifest.labels] == ["label 1", "label 2", "enhancing"]
    assert manifest.regions == {
        "whole": ("label 1", "label 2", "enhancing"),
        "core": ("label 2", "enhancing"),
        "enhancing": ("enhancing",),
    }
    assert "may overlap" in manifest.notes[0]


def test_values_with_gaps_are_numbered_inside_and_kept_in_files() -> None:
    manifest = of_nnunet(FILE, nnunet(labels={"background": 0, "spleen": 7, "liver": 2}))
    assert manifest.values == (2, 7)
    assert [(s.value, s.file_value, s.name) for s in manifest.labels] == [(1, 2, "liver"), (2, 7, "spleen")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channel_names": {"0": "CT", "2": "PET"}}, "must be numbered from 0 without a gap"),
        ({"labels": {"liver": 0}}, r"labels\.liver must be a whole number from 1"),
        ({"labels": {"liver": True}}, r"labels\.liver must be a whole number from 1"),
        ({"labels": {"all": []}}, r"labels\.all must be a whole number from 1"),
        ({"labels": {"liver": 1, "spleen": 1}}, "one value to two names"),
        ({"labels": {"liver": 1, "ignore": 1}}, "the value of ignore, 1, to a structure as well"),
        ({"labels": {"liver": 1, "ignore": "2"}}, r"labels\.ignore must be a whole number"),
    ],
)
def test_a_wrong_nnunet_file_is_refused_by_its_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(MedvitError, match=words):
        of_nnunet(FILE, nnunet(**changes))


def test_the_decathlon_lists_its_cases() -> None:
    content = {
        "name": " Liver ",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver"},
        "licence": "CC-BY-SA 4.0",
        "training": [{"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"}],
        "test": ["./imagesTs/liver_9.nii.gz"],
        "numTraining": 1, "numTest": 1,
    }  # fmt: skip
    manifest = of_decathlon(FILE, content)
    assert (manifest.name, manifest.modality) == ("Liver", "CT")
    assert manifest.source.licence == "CC-BY-SA 4.0"
    assert [case.id for case in manifest.cases] == ["liver_0", "liver_9"]
    assert manifest.splits == {"training": ("liver_0",), "test": ("liver_9",)}
    assert (manifest.expected.labelled, manifest.expected.unlabelled) == (1, 1)


def test_cases_of_a_datalist_may_carry_their_fold() -> None:
    items = [
        {"image": f"{name}.nii.gz", "label": f"{name}_l.nii.gz", "fold": n}
        for name, n in zip("abc", (0, 1, 0), strict=True)
    ]
    manifest = of_decathlon(FILE, {"training": items})
    assert manifest.splits == {"fold0": ("a", "c"), "fold1": ("b",)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"labels": {"liver": "1"}, "training": ["a.nii"]}, "labels must give a name to each value"),
        ({"training": []}, "training lists no case"),
        ({"training": [{"image": "a.nii", "id": "x"}, {"image": "b.nii", "id": "x"}]}, "the id 'x' to two"),
        ({"training": [{"label": "a.nii"}]}, "training"),
    ],
)
def test_a_wrong_decathlon_file_is_refused(content: dict[str, Any], words: str) -> None:
    with pytest.raises(MedvitError, match=words):
        of_decathlon(FILE, content)


def test_equal_names_get_ids_from_their_folders(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    manifest = of_list(file, ["site/a/t1.nii.gz", "site/b/t1.nii.gz"])
    assert [case.id for case in manifest.cases] == ["a_t1", "b_t1"]
    assert not any(case.named for case in manifest.cases)
    assert [case.id for case in of_list(file, ["a/x.nii", {"image": "b/y.mha", "id": "own"}]).cases] == [
        "x",
        "own",
    ]


def test_a_table_may_have_a_column_for_each_channel(tmp_path: Path) -> None:
    file = tmp_path / "studies.csv"
    file.write_text("\ufeffid;image_t1c;image_flair;label\np1;a.nii;b.nii;l.nii\np2;c.nii;;\n;;;\n")
    one, two = of_csv(file).cases
    assert (one.id, one.images, one.channels, one.label) == (
        "p1",
        ("a.nii", "b.nii"),
        ("t1c", "flair"),
        "l.nii",
    )
    assert (two.id, two.images, two.channels) == ("p2", ("c.nii",), ())


def test_a_table_without_images_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "studies.csv"
    file.write_text("id,path\n1,a.nii\n")
    with pytest.raises(MedvitError, match="no column 'image'"):
        of_csv(file)
