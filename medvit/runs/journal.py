"""The journal of a run: append-only JSON lines, one file for each process. Imports no torch."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

JOURNAL = Path(".cohort", "journal")
# Seconds between two touches of a run's file, by which others can tell that the run is alive.
HEARTBEAT = 10.0
_SILENT = 120.0


class Journal:
    """Events of the studies, for people to follow a run.

    Each process has its own file, so that no two write to the same one, even over a network. The
    journal decides nothing: the done marks tell what is done.

    Parameters
    ----------
    output_dir
        Folder with the results of the run.
    """

    def __init__(self, output_dir: Path) -> None:
        folder = output_dir / JOURNAL
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"

    def note(self, event: str, **facts: Any) -> None:
        """Append an event, such as ``note("done", study="a")``."""
        line = json.dumps({"time": time.time(), "event": event, **facts}, ensure_ascii=False) + "\n"
        # On a full disk the errors of the studies say so; a lost line of the journal loses no work.
        with contextlib.suppress(OSError), self.path.open("ab", buffering=0) as file:
            file.write(line.encode())

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Show that the run is alive for the duration of the block."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT):
                with contextlib.suppress(OSError):
                    os.utime(self.path)

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            ended.set()


@functools.cache
def journal_of(output_dir: Path) -> Journal:
    """This process's own journal of a run."""
    return Journal(output_dir)


def read_events(output_dir: Path) -> list[dict[str, Any]]:
    """All events of an output folder in chronological order; a line being written is left out."""
    events = []
    for path in (output_dir / JOURNAL).glob("*.jsonl"):
        for line in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                events.append(json.loads(line) | {"file": path.name})
    return sorted(events, key=lambda event: event["time"])


def living_runs(output_dir: Path, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ``begin`` event of each active run."""
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


def last_stage(output_dir: Path, study: str) -> str:
    """The last stage that a study reached; empty if it has not reached any."""
    stage = ""
    for event in read_events(output_dir):
        if event.get("study") == study and event["event"] in ("started", "stage"):
            stage = event.get("stage", "")
    return stage
