"""Studies whose input was refused: while the input is the same, another attempt would fail as well."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvit.errors import StudyError
from medvit.runs.done import input_stamps
from medvit.runs.outcome import StudyOutcome
from medvit.studies import Study, safe_name, write_json

# Failures that may be temporary; the input is not at fault.
WORKER_DIED, TIME_LIMIT = "worker-died", "time-limit"
PASSING = (WORKER_DIED, TIME_LIMIT, "MemoryError", "OutOfMemoryError", "OSError", "input-changed")
_REFUSALS = Path(".cohort", "refused")


def remember(output_dir: Path, study: Study, made_by: Mapping[str, Any], outcome: StudyOutcome) -> None:
    """Record whether the input of `study` was refused; if it was not, forget an earlier refusal."""
    path = _path(output_dir, study)
    # Names of exceptions are not stable causes: they concern programs and machines, not inputs.
    refused = outcome.status == "failed" and outcome.stage in ("read", "preprocess") and "-" in outcome.code
    if not refused or outcome.code in PASSING:
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError, StudyError):
        facts = {"made_by": dict(made_by), "files": input_stamps(study), "outcome": outcome.as_dict()}
        write_json(path, facts)


def recall(output_dir: Path, study: Study, made_by: Mapping[str, Any]) -> StudyOutcome | None:
    """The outcome of an earlier refusal of the same files by the same bundle; `None` where there is none."""
    try:
        facts = json.loads(_path(output_dir, study).read_text(encoding="utf-8"))
        same = facts["made_by"] == made_by and facts["files"] == input_stamps(study)
        return StudyOutcome(**facts["outcome"]) if same else None
    except (OSError, ValueError, KeyError, TypeError, StudyError):
        return None


def _path(output_dir: Path, study: Study) -> Path:
    return output_dir / _REFUSALS / f"{safe_name(study.id)}.json"
