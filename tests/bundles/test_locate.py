"""A bundle finds its own folder, wherever it is run from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medvit.bundles import find_bundle, locate
from medvit.errors import MedvitError

NAME = "segformer3d_brain"


def copy_of(folder: Path) -> Path:
    (folder / "configs").mkdir(parents=True)
    for name in ("metadata.json", "inference.json", "train.json"):
        (folder / "configs" / name).write_text("{}")
    return folder


def test_the_installed_one_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["monai.bundle"])
    monkeypatch.chdir(tmp_path)
    assert locate(NAME) == str(find_bundle(NAME).path)


@pytest.mark.parametrize("form", ["{0}/configs/inference.json", "['{0}/configs/train.json','x.json']"])
def test_a_copy_is_told_by_its_configuration_file(
    form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = copy_of(tmp_path / "my copy")
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "--config_file", form.format(copy)])
    assert locate(NAME) == str(copy)


def test_a_copy_is_told_by_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["monai.bundle"])
    copy = copy_of(tmp_path / NAME)
    for folder in (copy, copy / "configs"):
        monkeypatch.chdir(folder)
        assert locate(NAME) == str(copy)


def test_an_unknown_bundle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["monai.bundle"])
    with pytest.raises(MedvitError, match="there is no bundle 'nothing'"):
        locate("nothing")
