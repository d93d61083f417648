"""Processes that can be ended together with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a command at the head of a process group, so that `kill` ends all of it.

    Raises
    ------
    OSError
        If there is no such command.
    """
    group: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        group = {"creationflags": 0x08000000}  # no console window
    return subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=dict(environment), **group
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    if os.name == "nt":
        command = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
        subprocess.run(command, capture_output=True, check=False)
        return
    # It may have ended by itself meanwhile.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
