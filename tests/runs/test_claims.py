"""Claims: a study belongs to one process at a time, however that process ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medvit.runs.claims import CLAIMS, claim

HOLD = """
import sys, time
from pathlib import Path
from medvit.runs.claims import claim
with claim(Path(sys.argv[1]), "a") as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_a_second_claim_fails_until_the_first_ends(tmp_path: Path) -> None:
    with claim(tmp_path, "a") as first, claim(tmp_path, "a") as second, claim(tmp_path, "b") as other:
        assert (first, second, other) == (True, False, True)
    with claim(tmp_path, "a") as again:
        assert again


def test_an_error_in_the_block_releases_the_study(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), claim(tmp_path, "a"):
        raise ValueError("inside")
    with claim(tmp_path, "a") as again:
        assert again


def test_a_killed_process_releases_the_study(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().strip() == "True"
        with claim(tmp_path, "a") as ours:
            assert not ours
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with claim(tmp_path, "a") as ours:
        assert ours


def test_a_name_stays_in_the_folder(tmp_path: Path) -> None:
    with claim(tmp_path, "../../evil") as ours:
        assert ours
    assert {path.parent for path in tmp_path.rglob("*.lock")} == {tmp_path / CLAIMS}
