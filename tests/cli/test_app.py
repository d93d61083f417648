"""The command line answers at once, and an installed wheel is all that it needs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.cli import app as cli
from medvit.errors import MedvitError

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "monai", "nibabel", "scipy", "pandas", "matplotlib")
PROBE = f"""
import resource, sys
from medvit.cli.app import main
sys.argv = ["medvit", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code
heavy = [name for name in {HEAVY!r} if name in sys.modules]
usage = resource.getrusage(resource.RUSAGE_SELF)
print("PROBE", code, usage.ru_utime + usage.ru_stime, *heavy)
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 9, 10), np.int16), np.diag([1.0, 2.0, 3.0, 1.0])), path)
    return path


@pytest.mark.parametrize(
    "verb", [["--help"], ["list"], ["info", "segformer3d_brain"], ["check", "STUDY"], ["status", "--help"]]
)
def test_quick_verbs_import_nothing_heavy(verb: list[str], study: Path) -> None:
    arguments = [str(study) if a == "STUDY" else a for a in verb]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=True
    )
    _, code, seconds, *heavy = done.stdout.splitlines()[-1].split()
    # A header is read through nibabel, which takes parts of scipy along.
    reads_header = verb[0] == "check"
    assert set(heavy) <= ({"nibabel", "scipy"} if reads_header else set())
    assert code in ("0", "None")
    assert float(seconds) < (1.0 if reads_header else 0.5)


def medvit(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medvit.cli.app", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_list_and_info_say_what_a_bundle_is_worth() -> None:
    bundles = json.loads(medvit("list", "--json").stdout)
    assert "segformer3d_brain" in [b["name"] for b in bundles]
    assert "Dice" in next(b for b in bundles if b["name"] == "segformer3d_brain")["quality"]
    assert "left hippocampus  (SNOMED CT 5366008)" in medvit("info", "segformer3d_brain").stdout
    assert json.loads(medvit("info", "segformer3d_brain", "--json").stdout)["version"]


def test_check_refuses_with_a_cause_and_an_exit_code(study: Path) -> None:
    assert medvit("check", study).returncode == 0
    study.write_bytes(study.read_bytes()[:60])
    refused = medvit("check", study)
    assert refused.returncode == 3
    assert str(study) in refused.stdout


def test_an_unknown_bundle_is_one_sentence(study: Path, tmp_path: Path) -> None:
    done = medvit("run", "no_such_bundle", study, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("medvit: there is no bundle 'no_such_bundle'")
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_error_of_ours_that_monai_wraps_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate_configuration() -> None:
        try:
            raise MedvitError("model.pt: no such checkpoint")
        except MedvitError as error:
            raise RuntimeError("Failed to evaluate") from error

    monkeypatch.setattr(cli, "app", evaluate_configuration)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert capsys.readouterr().err == "medvit: model.pt: no such checkpoint\n"


def test_a_full_disk_is_one_sentence_wherever_it_is_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/3.npy")

    monkeypatch.setattr(cli, "app", write)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    said = "medvit: out/3.npy cannot be written: No space left on device; free space\n"
    assert capsys.readouterr().err == said


def test_a_foreign_bundle_folder_wants_to_be_trusted(study: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    configs = tmp_path / "foreign" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text('{"version": "1"}')
    (configs / "inference.json").write_text(json.dumps({"initialize": [f"$open({str(canary)!r}, 'w')"]}))
    done = medvit("run", tmp_path / "foreign", study, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "--trust" in done.stderr
    assert not canary.exists()


def test_a_wheel_carries_the_bundles(tmp_path: Path) -> None:
    """What is installed from a wheel runs in an empty folder, without the checkout."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    listed = json.loads(medvit("list", "--json", cwd=empty, env=environment).stdout)
    assert all(str(site) in b["path"] for b in listed)
    assert listed
    ramp = np.arange(8000, dtype=np.float32).reshape(20, 20, 20)
    nib.save(nib.Nifti1Image(ramp, np.diag([4.0, 4, 4, 1])), empty / "scan.nii.gz")
    done = medvit(
        "run", "segformer3d_brain", "scan.nii.gz", "-o", "out", "--no-report", "--device", "cpu",
        cwd=empty, env=environment,
    )  # fmt: skip
    # A ramp without a structure is red, which the exit code counts.
    assert done.returncode == 3, done.stderr
    assert "1 of 1 studies done (1 red)" in done.stdout
    assert (empty / "out" / "scan" / "labels.nii.gz").is_file()
