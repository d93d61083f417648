"""A local installation of medvit: its command as a process that reports progress and can be cancelled."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .compute import AS_THE_BUNDLE_HAS_IT, BundleInfo, Job, Result, Settings
from .errors import MedViTError
from .nifti import read_nifti, write_nifti
from .process import kill, start
from .volume import Volume, as_label_map, renumbered

_NOTHING_TO_DO, _SOME_FAILED = 2, 3
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_WINDOWS = re.compile(r"windows\D*(\d+)/(\d+)")


class LocalEngine:
    """The `medvit` command.

    Parameters
    ----------
    executable
        Path of the command, or its name where it is on the path.
    environment
        Environment variables of the process. Inside 3D Slicer, pass those from before its start: medvit's
        Python would otherwise load the libraries that Slicer puts on the path.
    """

    def __init__(self, executable: str = "medvit", environment: Mapping[str, str] | None = None) -> None:
        self.executable = executable
        # Without a terminal rich writes no progress; this makes it.
        terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"}
        self.environment = {**(os.environ if environment is None else environment), **terminal}

    def bundles(self) -> list[BundleInfo]:
        """The installed bundles.

        Raises
        ------
        MedViTError
            If there is no such command, or it does not answer.
        """
        process = self._start("list", "--json", stdout=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            kill(process)
            raise MedViTError(f"{self.executable} list did not answer within two minutes") from None
        if process.returncode:
            raise MedViTError(_last_line(err.decode(errors="replace"), process.returncode))
        try:
            bundles = json.loads(out)
            return [BundleInfo(b["name"], b["task"], b["quality"], _versions(b)) for b in bundles]
        except (ValueError, KeyError, TypeError):
            raise MedViTError(f"{self.executable} is not the medvit command; choose another") from None

    def run(
        self, bundle: str, volume: Volume, folder: Path, job: Job, settings: Settings = AS_THE_BUNDLE_HAS_IT
    ) -> Result:
        """Run a bundle by ``medvit run``; all output stays in `folder`.

        Raises
        ------
        MedViTError
            If the study is refused, there is no such bundle, or the process ends otherwise.
        """
        job.report("handing the volume over")
        image = write_nifti(folder / volume.file_name, volume)
        job.report("starting medvit")
        results = folder / "results"
        process = self._start("run", bundle, str(image), "-o", str(results), *_options(settings))
        with job.stoppable(lambda: kill(process)):
            said = _follow(process, job)
        image.unlink()
        job.report("reading the result")
        if process.returncode == _NOTHING_TO_DO:
            raise MedViTError(f"medvit found no study in {volume.name}")
        if process.returncode not in (0, _SOME_FAILED):
            raise MedViTError(_last_line(said, process.returncode))
        try:
            return _read_results(results, volume.name)
        except (OSError, ValueError, KeyError, TypeError):
            raise MedViTError(
                f"the results of {self.executable} are not those that this module knows; update both"
            ) from None

    def _start(self, *arguments: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        try:
            return start([self.executable, *arguments], self.environment, stdout)
        except OSError:
            raise MedViTError(
                f"there is no medvit command at {self.executable}; install medvit and choose its command, "
                "or use a server"
            ) from None


def _options(settings: Settings) -> list[str]:
    options = ["--device", settings.device] if settings.device else []
    options += ["--overlap", settings.overlap] if settings.overlap else []
    return [*options, "--tta"] if settings.tta else options


def _versions(bundle: dict[str, Any]) -> tuple[str, ...]:
    return (str(bundle["version"]),) if bundle.get("version") else ()


def _follow(process: subprocess.Popen[bytes], job: Job) -> str:
    """Read the output of a process to its end, pass progress on, and return the last part of the output."""
    assert process.stderr is not None
    said = ""
    with process.stderr as stream:
        while chunk := os.read(stream.fileno(), 65536):
            said = (said + _ESCAPE.sub("", chunk.decode(errors="replace")))[-20000:]
            counts = _WINDOWS.findall(said)
            if counts:
                done, total = map(int, counts[-1])
                job.report(f"window {done} of {total}", done / total if total else None)
    process.wait()
    job.log += [line.strip() for line in re.split(r"[\r\n]", said) if line.strip()]
    return said


def _read_results(results: Path, name: str) -> Result:
    (study, *_) = json.loads((results / "run.json").read_text(encoding="utf-8"))["studies"]
    if study["status"] != "done":
        raise MedViTError(study["error"])
    folder = results / study["study"]
    measurements = _measurements(folder / "measurements.json")
    report = folder / "report.html"
    shared: dict[str, Any] = {
        "notes": tuple(measurements.get("study", {}).get("notes", ())),
        "report": report if report.is_file() else None,
        "verdict": _verdict(measurements.get("quality", {})),
    }
    if (folder / "image.nii.gz").is_file():
        return Result(read_nifti((folder / "image.nii.gz").read_bytes(), name), **shared)
    structures = sorted(measurements["structures"], key=lambda s: s["value"])
    labels = tuple(s["name"] for s in structures)
    label_map = read_nifti((folder / "labels.nii.gz").read_bytes(), name)
    label_map = renumbered(label_map, [s["value"] for s in structures])
    volumes = {s["name"]: float(s["volume_ml"]) for s in structures}
    return Result(as_label_map(label_map, labels), labels, volumes, **shared)


def _verdict(quality: dict[str, Any]) -> str:
    """The light, and the first finding that counts."""
    findings = [flag["seen"] for flag in quality.get("flags", ()) if flag["level"] != "info"]
    return ": ".join([quality.get("light", ""), *findings[:1]])


def _measurements(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _last_line(said: str, code: int) -> str:
    """The last sentence of a process."""
    if code < 0:
        return f"medvit was ended by signal {-code}; if that was for want of memory, crop the volume"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].removeprefix("medvit: ") if lines else f"medvit ended with code {code} and said nothing"
