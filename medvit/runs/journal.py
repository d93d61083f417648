"""The journal of a cohort: append-only JSON lines, one file for each process. Imports no torch."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

JOURNAL = Path(".cohort", "journal")
# A run touches its file this often, in seconds, so that others can tell that it lives.
HEARTBEAT = 10.0
_SILENT = 120.0


class Journal:
    """What happens to the studies, for people to read while it happens.

    Each process has a file of its own, so that no two ever write to one, not over a network either. The
    journal decides nothing: what is done is told by the done marks.

    Parameters
    ----------
    output_dir
        Of the cohort.
    """

    def __init__(self, output_dir: Path) -> None:
        folder = output_dir / JOURNAL
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._beat = 0.0

    def note(self, event: str, **facts: Any) -> None:
        """Append an event, such as ``note("done", study="a")``."""
        line = json.dumps({"time": time.time(), "event": event, **facts}, ensure_ascii=False) + "\n"
        # On a full disk the studies' own errors tell; losing a line of the journal loses no work.
        with contextlib.suppress(OSError), self.path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def beat(self) -> None:
        """Show that the run is alive."""
        if time.monotonic() - self._beat >= HEARTBEAT:
            self._beat = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.path)


@functools.cache
def journal_of(output_dir: Path) -> Journal:
    """This process's own journal of a cohort."""
    return Journal(output_dir)


def read_events(output_dir: Path) -> list[dict[str, Any]]:
    """All events of a cohort in order of time; a line that is being written is left out."""
    events = []
    for path in (output_dir / JOURNAL).glob("*.jsonl"):
        for line in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                events.append(json.loads(line) | {"file": path.name})
    return sorted(events, key=lambda event: event["time"])


def living_runs(output_dir: Path, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ``begin`` of each run that is going on."""
    ended = {event["file"] for event in events if event["event"] == "end"}
    begun = [event for event in events if event["event"] == "begin" and event["file"] not in ended]
    return [event for event in begun if _lives(output_dir / JOURNAL / event["file"], event)]


def _lives(file: Path, begin: dict[str, Any]) -> bool:
    if time.time() - file.stat().st_mtime > _SILENT:
        return False
    if begin["host"] != socket.gethostname() or os.name != "posix":
        return True
    try:
        os.kill(begin["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
