"""The opener of configurations: components on demand, refusals without wrappers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvit.bundles import open_bundle
from medvit.bundles.find import Bundle
from medvit.errors import MedvitError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "configs").mkdir()
    config = {
        "imports": ["$from medvit import studies"],
        "bundle_root": "$1 / 0",
        "input": "nowhere",
        "found": "$studies.find_studies(@input)",
        "all": {"_target_": "dict", "inner": "@found"},
        "heap": "$[]",
        "initialize": ["$@heap.append(1)", "$@heap.append(2)"],
        "version": "@_meta_#version",
    }
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(config))
    (tmp_path / "configs" / "metadata.json").write_text('{"version": "3.1"}')
    return Bundle(tmp_path)


def test_components_are_made_once_with_overrides_and_metadata(bundle: Bundle) -> None:
    opened = open_bundle(bundle, input="other")
    assert opened.part("input") == "other"
    assert opened.part("version") == "3.1"
    assert opened.part("bundle_root") == str(bundle.path)
    opened.execute("initialize")
    assert opened.part("heap") == [1, 2]
    assert opened.stated("all") == {"_target_": "dict", "inner": "@found"}
    assert "found" in opened and "nothing" not in opened


def test_a_refusal_comes_out_without_wrappers(bundle: Bundle) -> None:
    with pytest.raises(MedvitError, match="nowhere") as error:
        open_bundle(bundle).part("all")
    assert error.value.__cause__ is None and error.value.__suppress_context__
    with pytest.raises(MedvitError, match="has no 'nothing'"):
        open_bundle(bundle).part("nothing")
    with pytest.raises(MedvitError, match="no train workflow"):
        open_bundle(bundle, "train")


def test_a_configuration_that_is_not_json_is_named(bundle: Bundle) -> None:
    bundle.config("inference").write_text("{")
    with pytest.raises(MedvitError, match=r"inference\.json: cannot be read as a configuration"):
        open_bundle(bundle)
