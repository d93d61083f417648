"""The outcome of a study."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from medvit.errors import MedvitError, StudyError, root_cause

Stage = Literal["read", "preprocess", "infer", "postprocess", "write"]
Light = Literal["", "green", "amber", "red"]
# Receives the id of a study, and ``"stage"`` with the stage that begins, or ``"note"`` with a sentence.
Listener = Callable[[str, str, str], None]


@dataclass
class StudyOutcome:
    """The outcome of a study: results, or the cause of their absence.

    Parameters
    ----------
    stage
        Last stage that was reached, or that failed.
    error, code
        Cause in one sentence, and its stable name; empty if there was no failure.
    seconds
        Wall time of each stage.
    outputs
        File name of each result, relative to the study's folder.
    details
        Details that the inferer reports.
    volumes_ml
        Volume of each structure.
    light, finding
        Traffic light of quality control, and its first finding; empty where nothing was measured.
    missing
        Reason why each requested output was not written, by the name of the output.
    inputs
        SHA-256 of the input of each series.
    path
        File or folder at fault, which `error` may name.
    listener
        Function called with each stage that begins; stays in its process.
    """

    study: str
    status: Literal["done", "failed"] = "done"
    stage: Stage = "read"
    error: str = ""
    code: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    light: Light = ""
    finding: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    path: str = ""
    listener: Listener | None = field(default=None, repr=False, compare=False)

    @property
    def well(self) -> bool:
        """Whether the study is done, no requested output is missing, and its light is not red."""
        return self.status == "done" and not self.missing and self.light != "red"

    @property
    def verdict(self) -> str:
        """Light, first finding and missing outputs in a clause; empty if there is nothing to report."""
        seen = f"{self.light}: {self.finding.rstrip('.')}" if self.light and self.finding else self.light
        return "; ".join(filter(None, (seen, *(f"missing {name}: {w}" for name, w in self.missing.items()))))

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Name and time a stage."""
        self.stage = stage
        self.tell("stage", stage)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(stage, 0.0) + time.perf_counter() - started
            self.seconds[stage] = round(spent, 3)

    def tell(self, kind: str, text: str) -> None:
        """Inform the listener."""
        if self.listener is not None:
            self.listener(self.study, kind, text)

    def fail(self, error: Exception) -> None:
        """Note why the study failed, in one sentence."""
        self.status = "failed"
        self.code = error.code if isinstance(error, StudyError) else type(error).__name__
        self.error = cause_of(error)
        self.path = _path_at_fault(root_cause(error))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "listener"}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"listener": None}


def _path_at_fault(error: BaseException) -> str:
    path = error.path if isinstance(error, StudyError) else getattr(error, "filename", None)
    return str(path or "")


def cause_of(error: BaseException) -> str:
    """The cause that the user can remedy, or else the root cause, in one sentence."""
    root = root_cause(error)
    return str(root) if isinstance(root, MedvitError) else f"{type(root).__name__}: {root}"
