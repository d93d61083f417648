"""Unpacked studies of patients do not outlive the process that unpacked them by more than one start."""

import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from medvit.studies.scratch import clear_abandoned, lasting_scratch_folder, scratch_folder

_SCRIPT = """
import sys, time
from medvit.studies import find_studies
find_studies(sys.argv[1])
print("unpacked", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_a_folder_ends_with_its_block(temporary: Path) -> None:
    with scratch_folder() as folder:
        (folder / "slice.dcm").write_bytes(b"patient")
        assert folder.stat().st_mode & 0o077 == 0
    assert not list(temporary.iterdir())


def test_what_a_killed_process_unpacked_is_gone_after_the_next_start(tmp_path: Path, temporary: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("series/slice.dcm", b"\0" * 128 + b"DICM patient")
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "export.zip")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "unpacked\n"
    clear_abandoned()
    assert list(temporary.rglob("slice.dcm")), "the folder of a process that lives stays"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    ours = lasting_scratch_folder()
    assert not list(temporary.rglob("slice.dcm"))
    assert [p for p in temporary.iterdir() if p.is_dir()] == [ours]
