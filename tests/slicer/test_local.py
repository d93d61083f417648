"""A local installation, for which a script stands in: results, progress, cancel and every way to fail."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from MedViTLib.compute import Job, Result, Settings
from MedViTLib.errors import Cancelled, MedViTError
from MedViTLib.local import LocalEngine
from MedViTLib.volume import Volume

from tests.slicer.grids import AFFINES, phantom

# Answers as the medvit command does; which way is up to the name of the bundle.
STAND_IN = """
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
if sys.argv[1:] == ["list", "--json"]:
    print(json.dumps([{"name": "brain", "task": "Segments", "quality": "Dice 0.9"}]))
    sys.exit()
verb, bundle, image, option, results, *options = sys.argv[1:]
image, results = Path(image), Path(results)
if bundle == "missing":
    sys.stderr.write("medvit: there is no bundle 'missing'; installed are: brain\\n")
    sys.exit(1)
if bundle == "crash":
    sys.exit("Traceback\\nRuntimeError: out of luck")
if bundle == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if bundle == "slow":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (image.parent / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)
if bundle == "silent":
    sys.exit()
if bundle == "nothing":
    sys.exit(2)
study = {"study": image.name[:-len(".nii.gz")], "status": "done", "error": ""}
folder = results / study["study"]
folder.mkdir(parents=True)
if bundle == "refused":
    study |= {"status": "failed", "error": f"{image}: holds no signal (empty)"}
for done in (1, 2, 3):
    sys.stderr.write("\\x1b[2Kstudies \\x1b[90m---\\x1b[0m 0/1 0:00:01\\n")
    sys.stderr.write(f"windows \\x1b[91m---\\x1b[0m {done}/4 0:00:01")
    sys.stderr.flush()
    time.sleep(0.15)
structures = [{"value": 2, "name": "right", "volume_ml": 1.5}, {"value": 1, "name": "left", "volume_ml": 0.0}]
flags = [{"level": "info", "seen": "fine"}, {"level": "warning", "seen": " ".join(options) or "cut off"}]
quality = {"light": "amber", "flags": flags}
measured = {"quality": quality, "study": {"notes": ["thick slices"]}}
measured["structures"] = structures if bundle == "brain" else []
(folder / "measurements.json").write_text(json.dumps(measured))
shutil.copy(image, folder / ("labels.nii.gz" if bundle == "brain" else "image.nii.gz"))
(folder / "report.html").write_text("<p>report</p>")
(results / "run.json").write_text(json.dumps({"studies": [study]}))
sys.exit(3 if bundle == "refused" else 0)
"""


@pytest.fixture
def engine(tmp_path: Path) -> LocalEngine:
    command = tmp_path / "medvit"
    command.write_text(f"#!{sys.executable} -S\n{STAND_IN}")
    command.chmod(0o755)
    return LocalEngine(str(command))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


def run(engine: LocalEngine, bundle: str, volume: Volume, folder: Path) -> Result:
    job = Job(lambda job: engine.run(bundle, volume, folder, job)).start()
    assert job.wait(30)
    return job.result()


def labels_on(name: str) -> Volume:
    voxels = np.zeros((7, 6, 5), np.uint8)
    voxels[1, 2, 3] = 2
    return Volume(voxels, AFFINES[name], "Head: T1 (2)")


def test_the_installed_bundles_are_listed(engine: LocalEngine) -> None:
    (bundle,) = engine.bundles()
    assert (bundle.name, bundle.task, bundle.quality) == ("brain", "Segments", "Dice 0.9")


@pytest.mark.parametrize("name", AFFINES)
def test_a_segmentation_comes_back_named_and_in_place(name: str, engine: LocalEngine, folder: Path) -> None:
    volume = labels_on(name)
    result = run(engine, "brain", volume, folder)
    assert result.labels == ("left", "right")
    assert result.volumes_ml == {"left": 0.0, "right": 1.5}
    assert result.volume.same_grid(volume)
    np.testing.assert_array_equal(result.volume.voxels, volume.voxels)
    assert result.notes == ("thick slices",)
    assert result.verdict == "amber: cut off"
    assert result.report == folder / "results" / "Head_T1_2" / "report.html"
    # The image that was handed over is a patient's, and not needed any more.
    assert [path.name for path in folder.iterdir()] == ["results"]


def test_settings_reach_the_command(engine: LocalEngine, folder: Path) -> None:
    settings = Settings(device="cpu", overlap="0.5", tta=True)
    job = Job(lambda job: engine.run("brain", labels_on("RAS"), folder, job, settings)).start()
    assert job.wait(30)
    assert job.result().verdict == "amber: --device cpu --overlap 0.5 --tta"
    assert "reading the result" in job.log
    with pytest.raises(MedViTError, match="overlap"):
        Settings(overlap="nan")


def test_a_restored_image_comes_back_in_full_precision(engine: LocalEngine, folder: Path) -> None:
    voxels = np.random.default_rng(1).normal(size=(4, 5, 1)).astype(np.float32)
    result = run(engine, "restorer", Volume(voxels, AFFINES["oblique"]), folder)
    assert result.labels == ()
    assert result.volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(result.volume.voxels, voxels)


def test_values_without_a_name_are_refused(engine: LocalEngine, folder: Path) -> None:
    with pytest.raises(MedViTError, match="holds 3, but the bundle names the values 1 to 2"):
        run(engine, "brain", Volume(np.full((2, 2, 2), 3, np.uint8), np.eye(4)), folder)


def test_progress_is_read_from_what_the_command_says(engine: LocalEngine, folder: Path) -> None:
    job = Job(lambda job: engine.run("brain", labels_on("RAS"), folder, job)).start()
    seen = set()
    while not job.wait(0.01):
        seen.add((job.stage, job.share))
    job.result()
    assert {("window 1 of 4", 0.25), ("window 2 of 4", 0.5)} <= seen


@pytest.mark.parametrize(
    ("bundle", "says"),
    [
        ("missing", "^there is no bundle 'missing'; installed are: brain$"),
        ("refused", r"holds no signal \(empty\)$"),
        ("nothing", "^medvit found no study in phantom$"),
        ("silent", "are not those that this module knows; update both$"),
        ("crash", "^RuntimeError: out of luck$"),
        ("killed", "ended by signal 9; if that was for want of memory"),
    ],
)
def test_each_failure_is_one_sentence(bundle: str, says: str, engine: LocalEngine, folder: Path) -> None:
    with pytest.raises(MedViTError, match=says):
        run(engine, bundle, phantom(), folder)


def test_a_command_that_is_not_there_or_another_one(tmp_path: Path) -> None:
    with pytest.raises(MedViTError, match=r"there is no medvit command at .*absent; install medvit"):
        LocalEngine(str(tmp_path / "absent")).bundles()
    with pytest.raises(MedViTError, match="is not the medvit command"):
        LocalEngine("echo").bundles()


def test_cancel_ends_the_command_and_what_it_started(engine: LocalEngine, folder: Path) -> None:
    job = Job(lambda job: engine.run("slow", phantom(), folder, job)).start()
    pids = folder / "pids"
    while not (pids.is_file() and pids.read_text()):
        assert not job.wait(0.02)
    started = time.monotonic()
    job.cancel()
    assert job.wait(10)
    assert time.monotonic() - started < 5
    with pytest.raises(Cancelled):
        job.result()
    for pid in map(int, pids.read_text().split()):
        assert _gone(pid)


def test_cancel_before_the_command_has_started(engine: LocalEngine, folder: Path) -> None:
    job = Job(lambda job: engine.run("brain", phantom(), folder, job))
    job.cancel()
    job.start()
    assert job.wait(10)
    with pytest.raises(Cancelled):
        job.result()


def test_the_environment_of_slicer_is_not_passed_on(tmp_path: Path) -> None:
    command = tmp_path / "medvit"
    says = "import json, os; print(json.dumps([{'name': k, 'task': '', 'quality': ''} for k in os.environ]))"
    command.write_text(f"#!{sys.executable} -S\n{says}\n")
    command.chmod(0o755)
    names = {b.name for b in LocalEngine(str(command), {"PATH": os.defpath}).bundles()}
    assert "PATH" in names
    assert "HOME" not in names


def _gone(pid: int) -> bool:
    """Whether a process has ended, though nobody may have asked for its exit code yet."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_the_stand_in_speaks_like_medvit() -> None:
    """The keys that the stand-in writes are those of the real outcome and of its schema."""
    root = Path(__file__).parents[2]
    schema = json.loads((root / "medvit/reports/schema/measurements.schema.json").read_text())
    structure = schema["properties"]["structures"]["items"]["properties"]
    assert {"value", "name", "volume_ml"} <= set(structure)
    assert "notes" in schema["properties"]["study"]["properties"]
