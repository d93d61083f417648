"""The file that says of a study's results that they are whole; `medvit.runs.done` says what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medvit.studies.files import write_json

DONE = "done.json"


def read_mark(folder: Path) -> dict[str, Any] | None:
    """The done mark of a study's folder; `None` when there is none that can be read."""
    try:
        mark = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(mark, dict) and all(isinstance(mark.get(k), dict) for k in ("made_from", "outputs"))
    return mark if whole else None


def void_mark(folder: Path) -> None:
    """Mark the results of a study as no longer valid; what they were made from stays recorded."""
    if (mark := read_mark(folder)) is not None:
        write_json(folder / DONE, mark | {"void": True})
