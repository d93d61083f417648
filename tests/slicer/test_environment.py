"""The environment that the module makes for medvit, with a script in the place of Python."""

import sys
from pathlib import Path

import pytest
from MedViTLib.compute import Job
from MedViTLib.environment import Environment
from MedViTLib.errors import MedViTError

# Does what is asked of an interpreter: says that it is recent, makes an environment, installs, lists.
STAND_IN = """
import json, os, shutil, sys
from pathlib import Path
rest = sys.argv[1:]
here = Path(sys.argv[0]).parent
if rest[0] == "-c" and "version_info" in rest[1]:
    sys.exit((here / "old").exists())
if rest[0] == "-c":
    installed = here / "installed"
    print(json.dumps({"medvit": installed.read_text()} if installed.exists() else {"Python": "3.12"}))
elif rest[1] == "venv":
    folder = Path(rest[2]) / "bin"
    folder.mkdir(parents=True)
    shutil.copy(sys.argv[0], folder / "python")
elif rest[1] == "pip":
    assert rest[2:4] == ["install", "--upgrade"] and rest[-2] == "--"
    print("Collecting", rest[-1])
    if rest[-1] == "nowhere":
        sys.exit("ERROR: no such package")
    if rest[-1] != "other":
        (here / "installed").write_text(Path(rest[-1]).name)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    python = tmp_path / "path" / "python3"
    python.parent.mkdir()
    python.write_text(f"#!{sys.executable} -S\n{STAND_IN}")
    python.chmod(0o755)
    return Environment(tmp_path / "environment", {"PATH": str(python.parent)})


def install(environment: Environment, source: str) -> Job:
    job = Job(lambda job: environment.install(source, job)).start()
    assert job.wait(30)
    return job


def test_it_is_made_and_upgraded_and_says_its_versions(environment: Environment) -> None:
    assert environment.versions() == {}
    job = install(environment, "wheels/1")
    assert job.result() == environment.versions() == {"medvit": "1"}
    assert "making the environment" in job.log and "Collecting wheels/1" in job.log
    job = install(environment, "wheels/2")
    assert job.result() == {"medvit": "2"} and "making the environment" not in job.log
    assert environment.command.parent == environment.python.parent


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nowhere", "the installation failed: ERROR: no such package"),
        ("other", "other was installed, but it is not medvit"),
        (" ", "say what to install"),
        ("--index-url=x", "say what to install"),
    ],
)
def test_what_cannot_be_installed_is_said(source: str, sentence: str, environment: Environment) -> None:
    with pytest.raises(MedViTError, match=sentence):
        install(environment, source).result()


def test_an_old_python_will_not_do(environment: Environment) -> None:
    Path(environment.variables["PATH"], "old").touch()
    with pytest.raises(MedViTError, match=r"needs Python 3\.11 or newer"):
        install(environment, "wheels/1").result()
    assert not environment.folder.exists()


def test_a_damaged_environment_is_named(environment: Environment) -> None:
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text("#!/bin/false\n")
    environment.python.chmod(0o755)
    with pytest.raises(MedViTError, match="damaged"):
        environment.versions()
