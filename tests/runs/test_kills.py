"""A run that is killed at any moment, and resumed, ends in the tree of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.runs import read_status
from tests.runs.standin import StandIn, make_studies, run, starts, tree

_SCRIPT = """
import sys
from pathlib import Path
from medvit.studies import Found, Series, Study
from tests.runs.standin import StandIn, run

if __name__ == "__main__":
    inputs, output = map(Path, sys.argv[1:])
    studies = (Study(p.stem, (Series((p,), "nifti"),)) for p in sorted(inputs.iterdir()))
    sys.exit(run(StandIn(output), Found(tuple(studies)), time_limit=5.0))
"""


def start(inputs: Path, output: Path) -> subprocess.Popen:
    """A run of its own, as of the command line."""
    script = inputs.parent / "script.py"
    script.write_text(_SCRIPT)
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, script, inputs, output],
        env=os.environ | {"PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(studies: int, seconds: float) -> dict[str, str]:
    """Studies that take `seconds`, two of them bad."""
    good = {f"s{i:02}": f"ok {seconds} {i}" for i in range(studies - 2)}
    return dict(sorted((good | {"s02x": "corrupt", "s03x": "kill"}).items()))


def survives(tmp_path: Path, kills: int, studies: int, seconds: float) -> None:
    """Kill a run `kills` times while it works, resume it to the end, and compare."""
    inputs, output, rng = tmp_path / "in", tmp_path / "out", random.Random(kills)
    found = make_studies(inputs, contents(studies, seconds))
    assert run(StandIn(tmp_path / "undisturbed"), found, time_limit=5.0) == 3
    done_before: Counter[str] = Counter()
    for _ in range(kills):
        process, begun = start(inputs, output), len(starts(output))
        while len(starts(output)) == begun and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2 * seconds))
        process.kill()
        process.communicate()
        done_before.update(path.parent.name for path in output.glob("*/done.json"))
    assert read_status(output).state in ("interrupted", "ended")
    begun_before = Counter(starts(output))
    process = start(inputs, output)
    process.communicate()
    assert process.returncode == 3
    assert tree(output) == tree(tmp_path / "undisturbed")
    again = Counter(starts(output)) - begun_before
    assert not [study for study in again if done_before[study]], "a study was run after its done mark"


def test_two_kills(tmp_path: Path) -> None:
    survives(tmp_path, kills=2, studies=7, seconds=0.2)


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    survives(tmp_path, kills=20, studies=40, seconds=0.3)


def test_workers_end_with_their_run_and_give_up_their_claims(tmp_path: Path) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    found = make_studies(inputs, {"a": "ok 30 a"})
    process = start(inputs, output)
    while not starts(output):
        time.sleep(0.05)
    assert list(read_status(output).running) == ["a"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert read_status(output).state == "interrupted" and not read_status(output).running
    (inputs / "a.nii").write_text("ok 0 a")
    began = time.monotonic()
    assert run(StandIn(output), found, workers=1) == 0
    assert time.monotonic() - began < 25, "the claim of the dead worker was waited for"


def test_two_runs_on_one_folder_share_the_studies(tmp_path: Path) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    found = make_studies(inputs, {f"s{i}": f"ok 0.4 {i}" for i in range(12)})
    other = start(inputs, output)
    while not starts(output):
        time.sleep(0.05)
    assert run(StandIn(output), found) == 0
    other.communicate()
    assert other.returncode == 0
    assert sorted(starts(output)) == sorted(s.id for s in found.studies)


def test_a_second_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    found = make_studies(inputs, {"a": "ok 20 a"})
    other = start(inputs, output)
    while not starts(output):
        time.sleep(0.05)
    with pytest.raises(MedvitError, match="other weights or settings"):
        run(StandIn(output, "b"), found)
    other.kill()
    other.communicate()
