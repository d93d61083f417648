"""What became of a study."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from medvit.errors import MedvitError, StudyError, root_cause

Stage = Literal["read", "preprocess", "infer", "postprocess", "write"]


@dataclass
class StudyOutcome:
    """What became of a study: results, or the cause of their absence.

    Parameters
    ----------
    study
        Identifier of the study.
    status
        ``"done"`` or ``"failed"``.
    stage
        The stage that was reached last, or failed.
    error, code
        One sentence with the cause, and its stable name; empty when all went well.
    seconds
        Wall time of each stage.
    outputs
        File name of each result, relative to the study's folder.
    details
        What the inferer reports of its work.
    volumes_ml
        Volume of each structure.
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

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Name and time a stage."""
        self.stage = stage
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(time.perf_counter() - started, 3)

    def fail(self, error: Exception) -> None:
        """Note why the study failed, in one sentence."""
        self.status = "failed"
        self.code = error.code if isinstance(error, StudyError) else type(error).__name__
        root = root_cause(error)
        self.error = str(root) if isinstance(root, MedvitError) else f"{type(root).__name__}: {root}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
