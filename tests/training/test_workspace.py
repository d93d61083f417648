"""The work folder of a training: what it refuses, and what it keeps when a training ends early."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.training.workspace import Workspace


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    work = Workspace(tmp_path / "mine")
    work.checkpoints.mkdir(parents=True)
    return work


def test_an_interruption_is_a_sentence_and_keeps_the_work(work: Workspace) -> None:
    with pytest.raises(MedvitError, match="--resume"), work.at_work():
        raise KeyboardInterrupt
    assert work.folder.is_dir()


def test_a_failure_keeps_only_what_can_be_resumed(work: Workspace) -> None:
    checkpoint = work.checkpoints / "last.pt"
    checkpoint.touch()
    with pytest.raises(ZeroDivisionError), work.at_work():
        raise ZeroDivisionError
    assert work.checkpoint() == str(checkpoint)
    checkpoint.unlink()
    with pytest.raises(ZeroDivisionError), work.at_work():
        raise ZeroDivisionError
    assert not work.folder.exists()


def test_a_work_folder_is_resumed_or_refused(work: Workspace) -> None:
    with pytest.raises(MedvitError, match="no training to resume"):
        work.open(resume=True)
    with pytest.raises(MedvitError, match="holds an interrupted training"):
        work.open(resume=False)
    work.plan_file.write_text("{}")
    work.open(resume=True)
    work.bundle.path.mkdir()
    finished = work.close()
    assert finished.path == work.output and not work.folder.exists()
