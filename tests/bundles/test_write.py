"""What is committed of the shipped bundles is what their specifications give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvit.bundles import installed_bundles
from medvit.bundles.templates import overlay, resolve
from medvit.bundles.write import SPECIFICATION, bundle_files, main, to_json, write_bundle
from medvit.errors import MedvitError

WRITTEN = [b for b in installed_bundles() if (b.path / SPECIFICATION).is_file()]


@pytest.mark.parametrize("bundle", WRITTEN, ids=lambda b: b.name)
def test_the_committed_files_are_the_generated_ones(bundle) -> None:
    specification = json.loads((bundle.path / SPECIFICATION).read_text(encoding="utf-8"))
    files = bundle_files(bundle.name, specification)
    differing = [name for name, text in files.items() if (bundle.path / name).read_text("utf-8") != text]
    assert differing == [], "run `python -m medvit.bundles.write`"
    assert {f"configs/{p.name}" for p in (bundle.path / "configs").iterdir()} == files.keys()


def test_our_own_bundles_have_specifications() -> None:
    assert {"segformer3d_brain", "transunet_brain", "rat_ct_denoise"} <= {b.name for b in WRITTEN}


def test_an_overlay_replaces_nests_and_adds() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert overlay(base, {"a#b": 3, "+a#c": [2], "d": {"e": 4}, "f#g": 5}) == {
        "a": {"b": 3, "c": [1, 2]}, "d": {"e": 4}, "f": {"g": 5},
    }  # fmt: skip
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}


def test_a_specification_lies_over_its_template() -> None:
    sections = resolve({"template": "brain", "inference": {"spacing": [1.0, 1.0, 1.0]}})
    assert sections["inference"]["spacing"] == [1.0, 1.0, 1.0]
    assert sections["inference"]["network_def"]["table"] == "brain"
    # Files that MONAI lays over others keep their identifiers as they are.
    assert "validate#network" in sections["evaluate"]


@pytest.mark.parametrize("content", [{"a": [1, 2], "b": {"c": [{"d": None}], "e": []}, "imports": ["x"]}])
def test_json_is_read_back_as_it_was(content: dict) -> None:
    text = to_json(content)
    assert json.loads(text) == content
    assert '"a": [1, 2],\n' in text
    assert '"imports": [\n        "x"\n    ]' in text


def test_a_bundle_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def save(path: Path) -> None:
        path.write_bytes(b"weights")

    def fail(weights: Path) -> dict[str, str]:
        raise MedvitError(f"{weights.name} does not fit")

    with pytest.raises(MedvitError, match=r"model\.pt does not fit"):
        write_bundle(tmp_path / "mine", save, fail)
    assert list(tmp_path.iterdir()) == []
    bundle = write_bundle(tmp_path / "mine", save, lambda _: {"docs/README.md": "text"})
    assert (bundle.path / "models/model.pt").read_bytes() == b"weights"
    assert (bundle.path / "docs/README.md").read_text() == "text"
    with pytest.raises(MedvitError, match="give a folder that does not exist"):
        write_bundle(tmp_path / "mine", save, lambda _: {})


def test_a_folder_without_a_specification_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no bundle\.json in .*nothing"):
        main([str(tmp_path / "nothing")])
