"""The environment of MONAI Label, without a network: pip is replaced."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from medvit.errors import MedvitError
from medvit.label import own_environment as environments


@pytest.fixture
def home(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(environments.venv.EnvBuilder, "_setup_pip", lambda *_: None)
    return tmp_path / "medvit" / "label" / "environment"


def with_pip(monkeypatch: Any, code: int) -> list[list[str]]:
    """Record calls of pip, which end with `code`; everything else runs."""
    calls: list[list[str]] = []
    run = subprocess.run

    def recorded(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        if "pip" in command:
            calls.append(command)
            return subprocess.CompletedProcess(command, code)
        return run(command, **how)

    monkeypatch.setattr(environments.subprocess, "run", recorded)
    return calls


def test_it_stands_on_the_running_environment(home: Path, monkeypatch: Any) -> None:
    calls = with_pip(monkeypatch, 0)
    assert environments.make_environment(lambda _: None) == home
    python = environments.interpreter(home)
    assert python is not None
    done = subprocess.run([python, "-c", "import medvit, pydicom"], cwd=home, check=False)
    assert done.returncode == 0
    assert [c[-1] for c in calls] == [environments.MONAI_LABEL, str(environments.requirements())]
    assert "--no-deps" in calls[0]


def test_a_failed_installation_is_one_sentence(home: Path, monkeypatch: Any) -> None:
    with_pip(monkeypatch, 1)
    with pytest.raises(MedvitError, match="could not be installed"):
        environments.make_environment(lambda _: None)
