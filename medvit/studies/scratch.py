"""Temporary folders for patients' data; what a killed process leaves behind is removed at the next start."""

from __future__ import annotations

import atexit
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "medvit-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder that is removed when the block ends, or later by `clear_abandoned`."""
    folder, lock = _new()
    try:
        yield folder
    finally:
        _remove(folder, lock)


def lasting_scratch_folder() -> Path:
    """An empty folder that is removed when the process ends, or later by `clear_abandoned`."""
    folder, lock = _new()
    atexit.register(_remove, folder, lock)
    return folder


def clear_abandoned() -> None:
    """Remove the scratch folders of processes that have ended without removing them."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*.lock"):
        # The operating system releases a lock once its process has ended, however it ended.
        lock = _lock(path)
        try:
            lock.acquire()
        except (Timeout, OSError):  # belongs to a running process, or to another user
            continue
        _remove(path.with_suffix(""), lock)


def _new() -> tuple[Path, FileLock]:
    clear_abandoned()
    folder = Path(tempfile.gettempdir()) / f"{_PREFIX}{secrets.token_hex(8)}"
    lock = _lock(folder.with_suffix(".lock"))
    lock.acquire()
    folder.mkdir(mode=0o700)
    return folder, lock


def _lock(path: Path) -> FileLock:
    return FileLock(path, blocking=False, fallback_to_soft=False, is_singleton=False, thread_local=False)


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
