"""Cheap work in place of a bundle's, whose studies are text files that say how to behave."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvit.errors import StudyError
from medvit.runs import LocalExecutor, run_work
from medvit.runs.done import input_sha256, study_folder
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Found, Series, Study


def process(study: Study, folder: Path) -> None:
    """Behave as the input says; a well-behaved study gets files that depend on its input alone."""
    kind, _, rest = study.path.read_text().partition(" ")
    if kind == "kill":
        os._exit(7)
    if kind == "hang":
        time.sleep(600)
    if kind == "memory":
        np.empty(2**50)
    if kind == "corrupt":
        raise StudyError("nifti-truncated", "ends early", path=study.path, do="fetch it again")
    if kind == "full":
        with Path("/dev/full").open("w") as file:
            file.write("x" * 10_000)
    if kind == "exit":
        raise SystemExit(1)
    digest = hashlib.sha256(rest.encode()).digest()
    (folder / "labels.bin").write_bytes(digest * 2000)
    time.sleep(float(rest.split()[0]) if rest else 0.0)
    (folder / "more").mkdir()
    (folder / "more" / "values.txt").write_text(digest.hex())


@dataclass
class StandIn:
    """`process` as the work of a cohort; notes each start beside the output."""

    output_dir: Path
    setting: str = "a"
    fit: bool = True
    preload: tuple[str, ...] = ()

    def open(self) -> None:
        if not self.fit:
            raise StudyError("weights", "do not fit")

    def made_by(self) -> dict[str, str]:
        return {"settings": self.setting}

    def perform(self, study: Study, outcome: StudyOutcome) -> None:
        with starts_of(self.output_dir).open("a") as file:
            file.write(f"{study.id}\n")
        with outcome.timed("read"):
            outcome.inputs = input_sha256(study)
            kind = study.path.read_text().partition(" ")[0]
        made_from = self.made_by() | {"inputs": outcome.inputs}
        try:
            with study_folder(self.output_dir, study.id, made_from) as folder:
                with outcome.timed("read" if kind == "corrupt" else "infer"):
                    process(study, folder)
                outcome.stage = "write"
        except Exception as error:
            outcome.fail(error)


def starts_of(output_dir: Path) -> Path:
    """The file with a line for each time that a study was begun."""
    return output_dir.parent / f"{output_dir.name}.starts"


def starts(output_dir: Path) -> list[str]:
    """The studies that were begun, in order."""
    path = starts_of(output_dir)
    return path.read_text().split() if path.exists() else []


def make_studies(folder: Path, contents: dict[str, str]) -> Found:
    """A study for each entry: its name and the text of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / f"{name}.nii").write_text(text)
    return Found(tuple(Study(n, (Series((folder / f"{n}.nii",), "nifti"),)) for n in contents))


def run(
    work: StandIn, found: Found, workers: int = 2, time_limit: float | None = None, **options: object
) -> int:
    """`run_work` with workers on this machine."""
    return run_work(work, found, lambda _: LocalExecutor(work, workers, time_limit), **options)  # type: ignore[arg-type]


def tree(output: Path) -> dict[str, str]:
    """SHA-256 of every file but the journal and the record of the run, which tell times."""
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in output.rglob("*")
        if path.relative_to(output).parts[0] not in (".cohort", "run.json", "failures.csv")
    }
