"""One id for a case, whichever verb reads its manifest, and whichever form that has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvit.datasets import find_cases, read_manifest
from medvit.errors import MedvitError
from medvit.evaluation import find_pairs
from medvit.studies import find_studies
from tests.datasets.folders import boxes, ct, nnunet, save, touch


def both(manifest: Path) -> tuple[list[str], list[str]]:
    """The ids for `run`, and those for `train`."""
    found = find_studies(manifest)
    assert not found.refused and not found.left_out
    return [study.id for study in found.studies], [
        c.id for c in find_cases(read_manifest(manifest), manifest.parent)
    ]


def test_an_nnunet_folder(tmp_path: Path) -> None:
    nnunet(tmp_path)
    touch(tmp_path, "imagesTs/ct_009_0000.nii.gz")
    ids = ["ct_000", "ct_001", "ct_002", "ct_009"]
    assert both(tmp_path / "dataset.json") == (ids, ids)
    assert [study.id for study in find_studies(tmp_path).studies] == ids


def test_results_of_a_run_pair_with_the_references(tmp_path: Path) -> None:
    nnunet(tmp_path / "data")
    for study in find_studies(tmp_path / "data").studies:
        save(tmp_path / "out" / study.id / "labels.nii.gz", boxes())
    pairing = find_pairs(tmp_path / "out", tmp_path / "data/labelsTr")
    assert [pair.study for pair in pairing.pairs] == ["ct_000", "ct_001", "ct_002"]
    assert not pairing.refused and not pairing.left_out


def test_ids_that_are_not_names_of_folders_pair_too(tmp_path: Path) -> None:
    save(tmp_path / "in/case 1.nii.gz", ct(1))
    save(tmp_path / "ref/case 1.nii.gz", boxes())
    (study,) = find_studies(tmp_path / "in").studies
    save(tmp_path / "out" / study.id / "labels.nii.gz", boxes())
    assert [pair.study for pair in find_pairs(tmp_path / "out", tmp_path / "ref").pairs] == ["case_1"]


def test_our_own_yaml(tmp_path: Path) -> None:
    save(tmp_path / "img/a_ct.nii.gz", ct(1))
    save(tmp_path / "lab/a.nii.gz", boxes())
    layout = {"images": "img/{case}_ct.nii.gz", "label": "lab/{case}.nii.gz"}
    (tmp_path / "own.yaml").write_text(json.dumps({"labels": {"1": "liver"}, "layouts": [layout]}))
    assert both(tmp_path / "own.yaml") == (["a"], ["a"])


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        (["imagesTr/a.nii.gz", "imagesTs/b.nii.gz"], ["a", "b"]),
        (["p1/ct.nii.gz", "p2/ct.nii.gz"], ["p1_ct", "p2_ct"]),
    ],
)
@pytest.mark.parametrize("form", ["decathlon", "list", "csv"])
def test_lists_take_their_ids_from_the_paths(
    tmp_path: Path, images: list[str], ids: list[str], form: str
) -> None:
    for number, image in enumerate(images):
        save(tmp_path / image, ct(number))
    if form == "csv":
        (tmp_path / "list.csv").write_text("\n".join(["image", *images]))
        assert both(tmp_path / "list.csv") == (ids, ids)
        return
    content = {"training": images, "modality": "CT"} if form == "decathlon" else images
    (tmp_path / "list.json").write_text(json.dumps(content))
    assert both(tmp_path / "list.json") == (ids, ids)


def test_a_data_set_without_its_images_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "labels": {"liver": 1}})
    )
    with pytest.raises(MedvitError, match=r"holds no case of .*the search was for"):
        find_studies(tmp_path)
