"""Bundles by name: installed ones, folders that are trusted, and what their metadata say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medvit.bundles import Bundle, find_bundle, installed_bundles
from medvit.bundles.find import is_bundle
from medvit.errors import MedvitError

FLAGSHIP = "segformer3d_brain"


def write_bundle(folder: Path, **metadata: Any) -> Bundle:
    (folder / "configs").mkdir(parents=True)
    content = {"version": "1.2.3", "task": "Finds things", **metadata}
    (folder / "configs" / "metadata.json").write_text(json.dumps(content), encoding="utf-8")
    return Bundle(folder)


def test_installed_bundles_are_found_by_both_of_their_names() -> None:
    bundle = find_bundle(FLAGSHIP)
    assert bundle in installed_bundles() and find_bundle(bundle.zoo_name) == bundle
    assert is_bundle(FLAGSHIP) and is_bundle(bundle.zoo_name)
    assert [b.name for b in installed_bundles()] == sorted(b.name for b in installed_bundles())


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    with pytest.raises(MedvitError, match=rf"no bundle 'segformer3d_brian' \(did you mean '{FLAGSHIP}'\?\)"):
        find_bundle("segformer3d_brian")
    assert not is_bundle("segformer3d_brian")


def test_a_folder_runs_only_if_it_is_trusted(tmp_path: Path) -> None:
    made = write_bundle(tmp_path / "mine")
    with pytest.raises(MedvitError, match=r"did not come with medvit.*give --trust"):
        find_bundle(str(made.path))
    assert find_bundle(str(made.path), trust=True) == made and is_bundle(str(made.path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedvitError, match="there is no bundle"):
        find_bundle(str(tmp_path / "empty"), trust=True)


def test_facts_and_their_defaults(tmp_path: Path) -> None:
    plain = write_bundle(tmp_path / "plain")
    assert (plain.name, plain.zoo_name, plain.version, plain.is_quantised) == (
        "plain",
        "plain",
        "1.2.3",
        False,
    )
    assert plain.label_table is None and plain.weights == tmp_path / "plain" / "models" / "model.pt"
    assert plain.summary() == {
        "version": "1.2.3", "zoo name": "plain", "task": "Finds things", "modality": "",
        "quality": "not measured", "weights": "missing", "path": str(plain.path),
    }  # fmt: skip
    table = {"name": "organs", "structures": [{"name": "kidney", "paired": True}, {"name": "liver"}]}
    facts = {"labels": table, "zoo_name": "organs_ct", "modality": ["CT", "MR"], "weights": "int8.bin"}
    full = write_bundle(tmp_path / "full", medvit=facts | {"quantised": {}})
    (full.path / "models").mkdir()
    full.weights.write_bytes(bytes(2_500_000))
    assert full.weights.name == "int8.bin" and full.is_quantised
    assert full.summary()["weights"] == "2.5 MB" and full.summary()["modality"] == "CT, MR"
    assert [s.name for s in full.structures()] == ["left kidney", "right kidney", "liver"]
    assert [s.name for s in full.structures(["kidney"])] == ["left kidney", "right kidney"]


def test_what_a_bundle_lacks_is_stated(tmp_path: Path) -> None:
    plain = write_bundle(tmp_path / "plain")
    with pytest.raises(MedvitError, match="plain restores images and has no structures"):
        plain.structures()
    with pytest.raises(MedvitError, match="bundle plain has no train workflow"):
        plain.config("train")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_broken_metadata_name_their_file(content: bytes, tmp_path: Path) -> None:
    broken = write_bundle(tmp_path / "broken")
    (broken.path / "configs" / "metadata.json").write_bytes(content)
    with pytest.raises(MedvitError, match=r"metadata\.json .*correct it or fetch the bundle again"):
        _ = broken.metadata
