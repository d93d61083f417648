"""medvit's own form of a manifest: what each key becomes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvit.errors import MedvitError
from medvit.studies.manifests.own import of_own

FILE = Path("kidneys.yaml")
LAYOUT = {"images": "{case}/{channel}.nii.gz", "label": "{case}/seg.nii.gz", "channels": ["a", "p"]}


def own(**changes: Any) -> dict[str, Any]:
    return {"channels": ["arterial", "portal"], "labels": {"0": "none", "2": "kidney", "5": "cyst"},
            "layouts": [LAYOUT]} | changes  # fmt: skip


def cases(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    content = own(cases=list(entries), **changes)
    del content["layouts"]
    return content


def test_labels_may_be_a_mapping_of_values_to_names() -> None:
    manifest = of_own(FILE, own())
    assert manifest.name == "kidneys"
    assert manifest.values == (2, 5)
    assert [(s.value, s.file_value, s.name) for s in manifest.labels] == [(1, 2, "kidney"), (2, 5, "cyst")]


def test_labels_may_be_an_installed_table() -> None:
    manifest = of_own(FILE, own(labels="brain"))
    assert manifest.labels.name == "brain" and manifest.values == tuple(s.value for s in manifest.labels)


def test_images_of_a_case_are_put_in_the_order_of_the_channels() -> None:
    by_name = {"id": "k1", "image": {"portal": "p.nii", "arterial": "a.nii"}, "split": "test"}
    listed = {"id": "k2", "image": ["a2.nii", "p2.nii"]}
    joint = {"id": "k3", "image": "both.nii"}
    manifest = of_own(FILE, cases(by_name, listed, joint, splits={"train": ["*", "!test"]}))
    assert [case.images for case in manifest.cases] == [
        ("a.nii", "p.nii"),
        ("a2.nii", "p2.nii"),
        ("both.nii",),
    ]
    # A split that leaves out another one leaves out its cases.
    assert manifest.splits == {"test": ("k1",), "train": ("*", "!k1")}
    assert manifest.splits_of("k1") == ["test"] and manifest.splits_of("k2") == ["train"]


def test_left_and_right_begin_the_name() -> None:
    label = {"value": 1, "name": "left kidney", "side": "left"}
    (kidney,) = of_own(FILE, own(labels=[label])).labels
    assert (kidney.side, kidney.unsided_name) == ("left", "kidney")
    with pytest.raises(MedvitError, match="must be left or right, and the name must begin with it"):
        of_own(FILE, own(labels=[label | {"side": "right"}]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (own(cases=[{"id": "a", "image": "a.nii"}]), "either layouts or cases must say where the images are"),
        (cases(), "either layouts or cases must say where the images are"),
        (own(channels=["a", "a"]), "channels gives 'a' twice"),
        (own(labels={}), "labels names no structure; leave it out for restoration"),
        (own(background=[2]), r"background repeats \[2\], which labels name"),
        (own(ignore=5), "ignore repeats 5, which labels or background name"),
        (own(background=[9], ignore=9), "ignore repeats 9"),
        (own(expected={"absent": ["ureter"]}), r"expected\.absent names ureter, which labels do not"),
        (own(regions={"all": ["kidney", "stone"]}), r"regions\.all names stone"),
        (own(checksums={"a.nii": "md5:xyz"}), r"checksums\.a\.nii must be md5: or sha256:"),
        (own(layouts=[LAYOUT | {"channels": ["a"]}]), r"layouts\[0\]\.channels names 1 of 2 channels"),
        (own(layouts=[LAYOUT | {"images": "all.nii"}]), r"must contain \{case\}"),
        (own(layouts=[LAYOUT | {"images": "{case}_{contrast}.nii"}]), "no other braces"),
        (own(layouts=[LAYOUT | {"images": "../{case}.nii"}]), "a path below the folder of the data set"),
        (own(layouts=[LAYOUT | {"images": "/{case}.nii"}]), "a path below the folder of the data set"),
        (own(layouts=[LAYOUT | {"case": "("}]), "is not a regular expression"),
        (own(expected={"shape": [[1, 1, 1]]}), "a list of the least and the largest value along each axis"),
        (own(expected={"shape": [[1, 1], [2, 2, 2]]}), "must be 3 numbers"),
        (cases({"id": "a", "image": ["1", "2", "3"]}), "must name one file, or 2: one for each channel"),
        (cases({"id": "a", "image": {"arterial": "1"}}), "must name one file for each of arterial, portal"),
        (cases({"id": "a", "image": []}), "must name a file, or one for each channel"),
        (cases({"id": "a", "image": "1"}, {"id": "a", "image": "2"}), "cases gives 'a' twice"),
        (own(splits={"a": ["!b"], "b": ["!c"], "c": ["x"]}), r"splits\.a leaves out a split that is itself"),
        (own(splits={"a": ["!b"], "b": ["*"]}), r"splits\.a leaves out a split that is itself a remainder"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named(content: dict[str, Any], words: str) -> None:
    with pytest.raises(MedvitError, match=words) as error:
        of_own(FILE, content)
    assert str(error.value).startswith("kidneys.yaml: ")
