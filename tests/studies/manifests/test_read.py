from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medvit.datasets import read_manifest
from medvit.errors import MedvitError

SOUND = """
name: own
modality: mr
channels: [flair, t1]
labels:
  - {value: 1, name: left kidney, side: left, code: {value: "64033007", meaning: Kidney}}
  - {value: 4, name: cyst, category: lesion}
background: [7]
regions: {all: [left kidney, cyst]}
layouts: [{images: "{case}/{case}_{channel}.nii.gz", label: "{case}/{case}_seg.nii.gz"}]
splits: {train: ["*", "!test"], test: [b, "c_*"]}
"""


def written(folder: Path, text: str, name: str = "own.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_labels_keep_the_values_of_the_files(tmp_path):
    manifest = read_manifest(written(tmp_path, SOUND))
    assert manifest.modality == "MR" and manifest.channels == ("flair", "t1")
    assert manifest.values == (1, 4) and manifest.known_values == {0, 1, 4, 7}
    kidney, cyst = manifest.labels
    assert (kidney.value, kidney.side, kidney.code.value) == (1, "left", "64033007")
    assert (cyst.value, cyst.code.scheme, cyst.category.value) == (2, "99MEDVIT", "49755003")
    assert manifest.regions == {"all": ("left kidney", "cyst")}
    np.testing.assert_array_equal(manifest.to_table(np.array([[0, 1], [4, 7]])), [[0, 1], [2, 0]])
    with pytest.raises(MedvitError, match="holds 3, which own does not know"):
        manifest.to_table(np.array([0, 3]))


def test_a_split_may_be_the_rest(tmp_path):
    manifest = read_manifest(written(tmp_path, SOUND))
    assert manifest.splits_of("a") == ["train"]
    assert manifest.splits_of("b") == ["test"] and manifest.splits_of("c_2") == ["test"]
    assert manifest.splits_of("a", is_labelled=False) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("modality: mr", "modalty: mr", "modalty is not a key that medvit knows"),
        ("value: 4", "value: 1", "labels gives 1 twice"),
        ("value: 4", "value: 0", r"labels\[1\].value must be a whole number from 1"),
        ("value: 4", "value: 1.5", r"labels\[1\].value must be a whole number"),
        ("name: cyst", "name: left kidney", "labels gives 'left kidney' twice"),
        ("name: cyst", "name: no", r"labels\[1\].name must be text, not False: put it in quotes"),
        ("side: left", "side: middle", r"labels\[0\].side must be left or right"),
        ("lesion", "illness", r"labels\[1\].category must be anatomy or lesion"),
        ("[7]", "[7]\nignore: 7", "ignore repeats 7"),
        ("[7]", "[4]", r"background repeats \[4\]"),
        ("[left kidney, cyst]", "[spleen]", "regions.all names spleen, which labels do not"),
        ("[b, ", '["!train", ', "splits.train leaves out a split that is itself a remainder"),
        ("[b, ", "[001, ", r"splits.test\[0\] must be text, not 1: put it in quotes"),
        ("[flair, t1]", "[flair, flair]", "channels gives 'flair' twice"),
        ('images: "{case}/', 'images: "../{case}/', r"layouts\[0\].images must be a path below"),
        ('label: "{case}/{case}_seg', 'label: "seg', r"layouts\[0\].label must contain {case}"),
        ("layouts: [", "cases: [{id: a, image: b}]\nlayouts: [", "either layouts or cases"),
        ("name: own", "name: own\nname: other", "the key 'name' stands twice"),
        (SOUND, "cases: []", "layouts or cases must say where the images are"),
        ("name: own", "checksums: {a: 'md5:12'}", "checksums.a must be md5: or sha256:"),
        ("name: own", "expected: {shape: [1, 2]}", "expected.shape.0. must be 3 numbers"),
        ("name: own", "name: [", "cannot be read as a manifest"),
        (SOUND, "3", "a manifest must be a mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, complaint):
    assert old in SOUND
    with pytest.raises(MedvitError, match=complaint) as error:
        read_manifest(written(tmp_path, SOUND.replace(old, new, 1)))
    assert str(tmp_path / "own.yaml") in str(error.value)


def test_cases_may_be_listed_with_splits_and_channels_by_name(tmp_path):
    content = {
        "channels": ["t1", "t2"],
        "labels": {"2": "liver", "0": "background"},
        "cases": [
            {"id": "a", "image": {"t2": "a2.nii", "t1": "a1.nii"}, "label": "a.nii", "split": "train"},
            {"id": "b", "image": "both.nii", "label": "b.nii", "split": "test"},
        ],
    }
    manifest = read_manifest(written(tmp_path, json.dumps(content), "own.json"))
    assert manifest.name == "own" and manifest.values == (2,)
    assert [case.images for case in manifest.cases] == [("a1.nii", "a2.nii"), ("both.nii",)]
    assert manifest.splits == {"train": ("a",), "test": ("b",)}
    content["cases"][1]["image"] = ["1.nii", "2.nii", "3.nii"]
    with pytest.raises(MedvitError, match=r"cases\[1\].image must name one file, or 2"):
        read_manifest(written(tmp_path, json.dumps(content), "own.json"))


def test_a_shipped_label_table_by_its_name(tmp_path):
    manifest = read_manifest(written(tmp_path, "labels: brain\nlayouts: [{images: '{case}.nii'}]"))
    assert manifest.values == tuple(range(1, len(manifest.labels) + 1))


def test_msd_lists_its_cases(tmp_path):
    content = {
        "name": "Prostate", "modality": {"1": "ADC", "0": "T2"},
        "labels": {"0": "background", "2": "TZ", "1": "PZ"},
        "numTraining": 1, "numTest": 1, "licence": "CC-BY-SA 4.0",
        "training": [{"image": "./imagesTr/p_01.nii.gz", "label": "./labelsTr/p_01.nii.gz"}],
        "test": ["./imagesTs/p_02.nii.gz"],
    }  # fmt: skip
    written(tmp_path, json.dumps(content), "dataset.json")
    manifest = read_manifest(tmp_path)
    assert manifest.channels == ("T2", "ADC") and manifest.modality == "MR"
    assert [s.name for s in manifest.labels] == ["PZ", "TZ"] and manifest.values == (1, 2)
    assert manifest.splits == {"training": ("p_01",), "test": ("p_02",)}
    assert manifest.source.licence == "CC-BY-SA 4.0" and manifest.expected.unlabelled == 1


def test_folds_of_a_datalist_are_splits(tmp_path):
    items = [{"image": [f"{i}_{c}.nii" for c in "ab"], "label": f"{i}.nii", "fold": i % 2} for i in range(3)]
    written(tmp_path, json.dumps({"training": items, "labels": {"1": "x"}}), "folds.json")
    manifest = read_manifest(tmp_path / "folds.json")
    assert manifest.splits == {"fold0": ("0_a", "2_a"), "fold1": ("1_a",)}


def test_nnunet_regions_are_made_of_values(tmp_path):
    content = {
        "channel_names": {"0": "T1", "1": "FLAIR"}, "file_ending": ".nii.gz", "numTraining": 2,
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    }  # fmt: skip
    written(tmp_path, json.dumps(content), "dataset.json")
    manifest = read_manifest(tmp_path)
    assert manifest.values == (1, 2, 3) and manifest.modality == "MR"
    assert manifest.regions["core"] == ("label 2", "enhancing")
    assert manifest.regions["enhancing"] == ("enhancing",)
    assert "their parts are learned (label 1, label 2, enhancing)" in manifest.notes[0]
    for labels, complaint in (
        ({"a": 1, "b": 1}, "labels gives one value to two names"),
        ({"a": 1, "ignore": 1}, "labels gives the value of ignore, 1, to a structure"),
        ({"a": "1"}, "labels.a must be a whole number"),
    ):
        written(tmp_path, json.dumps(content | {"labels": labels}), "dataset.json")
        with pytest.raises(MedvitError, match=complaint):
            read_manifest(tmp_path)


def test_a_missing_manifest_is_answered_with_those_at_hand(tmp_path):
    with pytest.raises(
        MedvitError,
        match=r"there is no manifest brats1999 \(did you mean 'brats2021'\?\); medvit comes with aapm_mayo, ",
    ):
        read_manifest("brats1999")
    with pytest.raises(MedvitError, match=r"must end in \.yaml, \.yml, \.json, \.csv"):
        read_manifest(written(tmp_path, "a", "own.txt"))


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_another_encoding_is_refused_in_words(tmp_path, encoding):
    path = tmp_path / "list.csv"
    path.write_bytes("id,image\nMüller,a.nii\n".encode(encoding))
    with pytest.raises(MedvitError, match=r"list\.csv is not text in UTF-8; save it in this encoding$"):
        read_manifest(path)
