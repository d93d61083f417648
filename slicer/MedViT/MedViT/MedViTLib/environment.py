"""A Python environment for medvit, separate from that of 3D Slicer: installation, upgrade and versions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .compute import Job
from .errors import MedViTError
from .process import kill, start

_NEWEST_FIRST = ("python3.13", "python3.12", "python3.11", "python3", "python")
_RECENT = "import sys; sys.exit(sys.version_info < (3, 11))"
_VERSIONS = (
    "import importlib.metadata as m, json, platform; "
    "names = {d.metadata['Name'].lower() for d in m.distributions() if d.metadata['Name']}; "
    "wanted = [n for n in ('medvit', 'monai', 'torch', 'monailabel') if n in names]; "
    "print(json.dumps({**{n: m.version(n) for n in wanted}, 'Python': platform.python_version()}))"
)


class Environment:
    """A virtual environment.

    Parameters
    ----------
    folder
        Folder of the environment, made by `install`.
    variables
        Environment variables of the processes that are started, without those that 3D Slicer sets for itself.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.variables = dict(os.environ if variables is None else variables)

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self._program("python")

    @property
    def command(self) -> Path:
        """The medvit command."""
        return self._program("medvit")

    def versions(self) -> dict[str, str]:
        """Versions by package; empty where nothing is installed."""
        if not self.python.is_file():
            return {}
        try:
            answer = subprocess.run(
                [str(self.python), "-c", _VERSIONS],
                capture_output=True,
                env=self.variables,
                timeout=60,
                check=True,
            )
            return dict(json.loads(answer.stdout))
        except (OSError, ValueError, subprocess.SubprocessError):
            raise MedViTError(
                f"the environment in {self.folder} is damaged; delete the folder and install again"
            ) from None

    def install(self, source: str, job: Job) -> dict[str, str]:
        """Create the environment unless it exists, install or upgrade medvit, and return the versions.

        Parameters
        ----------
        source
            What pip installs: the folder of a checkout, a wheel, or a name.

        Raises
        ------
        MedViTError
            If there is no Python of 3.11 or newer, or pip fails.
        """
        source = source.strip()
        if not source or source.startswith("-"):
            raise MedViTError("say what to install: the folder of a checkout of medvit, or a wheel")
        if not self.python.is_file():
            job.report("making the environment")
            self._run([self._base_python(), "-m", "venv", str(self.folder)], job)
        job.report("installing medvit; torch is large, this takes minutes")
        pip = [str(self.python), "-m", "pip", "install", "--upgrade", "--no-input"]
        self._run([*pip, "--upgrade-strategy", "only-if-needed", "--", source], job)
        versions = self.versions()
        if "medvit" not in versions:
            raise MedViTError(f"{source} was installed, but it is not medvit")
        return versions

    def _base_python(self) -> str:
        for name in _NEWEST_FIRST:
            path = shutil.which(name, path=self.variables.get("PATH"))
            if path and not subprocess.run([path, "-c", _RECENT], env=self.variables, check=False).returncode:
                return path
        raise MedViTError("medvit needs Python 3.11 or newer; install it from python.org, then try again")

    def _run(self, command: list[str], job: Job) -> None:
        try:
            process = start(command, self.variables, subprocess.PIPE, subprocess.STDOUT)
        except OSError as error:
            raise MedViTError(f"{command[0]} cannot be started: {error}") from None
        with job.stoppable(lambda: kill(process)):
            assert process.stdout is not None
            with process.stdout as stream:
                for line in stream:
                    job.log.append(line.decode(errors="replace").rstrip())
            process.wait()
        if process.returncode:
            last = next((line for line in reversed(job.log) if line.strip()), "it said nothing")
            raise MedViTError(f"the installation failed: {last}")

    def _program(self, name: str) -> Path:
        windows = os.name == "nt"
        return self.folder / ("Scripts" if windows else "bin") / (f"{name}.exe" if windows else name)
