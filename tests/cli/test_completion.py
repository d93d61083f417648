"""What the shell offers when the Tab key is pressed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medvit.cli import completion


def context(bundle: str | None = None, *args: str) -> Any:
    return SimpleNamespace(params={"bundle": bundle} if bundle else {}, args=list(args))


def test_words_are_offered_by_their_beginning() -> None:
    assert completion.words("auto", "cpu", "cuda")("c") == ["cpu", "cuda"]
    assert completion.words("auto", "cpu")("x") == []


def test_bundles_and_folders_are_offered_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("swin_results", "swat", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "swin.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert completion.complete_bundles("swin") == ["swin_unetr_brain", "swin_results/"]
    assert completion.complete_bundles("./sw") == ["swat/", "swin_results/"]
    assert completion.complete_bundles(f"{tmp_path}/o") == [f"{tmp_path}/other/"]


def test_structures_follow_those_before_the_last_comma() -> None:
    brain = context("segformer3d_brain")
    assert completion.complete_structures(brain, "left_hip") == ["left_hippocampus"]
    assert completion.complete_structures(brain, "amyg") == ["amygdala"]
    assert completion.complete_structures(brain, "amygdala,amyg") == []
    assert completion.complete_structures(brain, "amygdala,left_amyg") == ["amygdala,left_amygdala"]
    # The bundle may stand among words that were not parsed yet.
    assert completion.complete_structures(context(None, "segformer3d_brain"), "right_hip") == [
        "right_hippocampus"
    ]
    for nothing in (context("rat_ct_denoise"), context("no_such_bundle"), context()):
        assert completion.complete_structures(nothing, "") == []


def test_languages_and_manifests_are_those_that_are_installed() -> None:
    assert completion.complete_languages("") == ["de", "en", "fr"]
    assert completion.complete_languages("f") == ["fr"]
    assert "msd09_spleen" in completion.complete_manifests("msd0")
    assert not [name for name in completion.complete_manifests("msd0") if not name.startswith("msd0")]
