"""A configuration finds its own folder, and mistyped flags of `monai.bundle run` are named."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from medvit.bundles import check_flags, find_bundle, locate, open_bundle
from medvit.bundles.find import Bundle
from medvit.errors import MedvitError, root_cause

NAME = "segformer3d_brain"


def copy_of(folder: Path) -> Path:
    """A bundle folder whose configurations hold their root and nothing else."""
    (folder / "configs").mkdir(parents=True)
    root = {"imports": ["$from medvit import bundles"], "bundle_root": f"$bundles.locate({NAME!r})"}
    for name in ("metadata", "inference", "train"):
        (folder / "configs" / f"{name}.json").write_text("{}" if name == "metadata" else json.dumps(root))
    return folder


def test_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy that is read from Python must not take the weights of the installed bundle."""
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.chdir(tmp_path)
    copy = copy_of(tmp_path / "elsewhere" / NAME)
    parser = ConfigParser()
    parser.read_config(str(copy / "configs" / "inference.json"))
    with pytest.raises(RuntimeError) as error:
        parser.get_parsed_content("bundle_root")
    cause = root_cause(error.value)
    assert isinstance(cause, MedvitError)
    assert "set bundle_root to the folder" in str(cause)


def test_a_workflow_knows_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.chdir(tmp_path)
    copy = copy_of(tmp_path / "elsewhere" / "renamed")
    workflow = ConfigWorkflow(config_file=str(copy / "configs" / "inference.json"), workflow_type="infer")
    workflow.initialize()
    assert workflow.bundle_root == str(copy)


def test_the_opener_gives_the_folder(tmp_path: Path) -> None:
    copy = copy_of(tmp_path / "renamed")
    assert open_bundle(Bundle(copy)).part("bundle_root") == str(copy)


@pytest.mark.parametrize("form", ["{0}/configs/inference.json", "['{0}/configs/train.json','x.json']"])
def test_a_copy_is_told_by_its_configuration_file(
    form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = copy_of(tmp_path / "my copy")
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "--config_file", form.format(copy)])
    assert locate(NAME) == str(copy)


def test_two_bundles_on_one_command_line_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, other = copy_of(tmp_path / "one"), copy_of(tmp_path / "other")
    files = f"['{one}/configs/train.json','{other}/configs/train.json']"
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "--config_file", files])
    with pytest.raises(MedvitError, match="both named; give --bundle_root"):
        locate(NAME)


def test_a_copy_is_told_by_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["monai.bundle"])
    copy = copy_of(tmp_path / NAME)
    for folder in (copy, copy / "configs"):
        monkeypatch.chdir(folder)
        assert locate(NAME) == str(copy)


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (["--outptu_dir", "x"], "nothing named 'outptu_dir' (did you mean 'output_dir'?)"),
        (["--inferer#overlap", "0.1", "--sw-batch-size=2", "--tracking", "x"], ""),
        (["--overlpa=0.1"], "nothing named 'overlpa' (did you mean 'overlap'?)"),
    ],
)
def test_unknown_flags_are_named(flags: list[str], wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(find_bundle(NAME).config("inference"))
    monkeypatch.setattr(sys, "argv", ["/x/monai/bundle/__main__.py", "run", "--config_file", config, *flags])
    if not wrong:
        check_flags()
        return
    with pytest.raises(SystemExit, match=re.escape(wrong)):
        check_flags()
