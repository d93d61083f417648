"""The environment of MONAI Label, a thin one over the running one; `medvit label --install` makes it."""

from __future__ import annotations

import os
import site
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

from medvit.errors import MedvitError

# Installed without its dependencies, which would bring another torch and numpy.
MONAI_LABEL = "monailabel==0.8.5"
_CHECKOUT = Path(__file__).parents[2]


def workspace() -> Path:
    """Default folder for trained versions and fetched series."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "medvit" / "label"


def environment() -> Path:
    """Folder of the environment: that of a checkout where `make label-env` made it, else the user's."""
    own = _CHECKOUT / ".venv-label"
    return own if own.is_dir() else workspace() / "environment"


def interpreter(folder: Path) -> Path | None:
    """The Python of an environment; `None` when there is none."""
    places = (folder / name for name in ("bin/python", "Scripts/python.exe"))
    return next((place for place in places if place.is_file()), None)


def requirements() -> Path:
    """The list of what MONAI Label imports, in a checkout or in the installed package."""
    files = (Path(__file__).with_name("requirements.txt"), _CHECKOUT / "label-constraints.txt")
    return next(file for file in files if file.is_file())


def make_environment(say: Callable[[str], None] = print) -> Path:
    """Build the environment from scratch and return its folder.

    torch, MONAI and medvit are those of the running environment; only MONAI Label and what it imports are
    installed.

    Raises
    ------
    MedvitError
        If a package cannot be installed.
    """
    folder = workspace() / "environment"
    say(f"making {folder}")
    venv.EnvBuilder(with_pip=True, clear=True).create(folder)
    python = interpreter(folder)
    assert python is not None, "it was just made"
    ask = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
    packages = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    below = [*site.getsitepackages(), str(_CHECKOUT)]
    (packages / "medvit-below.pth").write_text("\n".join(below) + "\n", encoding="utf-8")
    for what in (["--no-deps", MONAI_LABEL], ["--requirement", str(requirements())]):
        say(f"installing {what[-1]}")
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
        # Where all is well, pip only complains that MONAI Label lacks what was left out on purpose.
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr or "").strip().rpartition("\n")[2]
            raise MedvitError(f"{what[-1]} could not be installed: {why or 'pip did not say why'}")
    return folder
