"""Small JSON records of results and their inputs, so that finished work is not repeated."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from medvit.studies.files import write_json

FORMAT = 1  # version of the records; raise it when their content changes


def key_of(made_from: Any) -> str:
    """A digest of the inputs of a record."""
    return hashlib.sha256(json.dumps([FORMAT, made_from], sort_keys=True).encode()).hexdigest()


def write_record(path: Path, key: str, content: dict[str, Any]) -> None:
    """Write `content` under `key`, whole or not at all."""
    write_json(path, {"key": key} | content)


def read_record(path: Path, key: str) -> dict[str, Any] | None:
    """The record at `path` if it was made from the same as `key`; `None` otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("key") == key else None


def is_current(path: Path, key: str) -> bool:
    """Whether there is a record at `path` made from the same as `key`."""
    return read_record(path, key) is not None
