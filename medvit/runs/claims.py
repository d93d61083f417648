"""The claim on a study, by which several processes and machines share one output folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from medvit.studies import safe_name

CLAIMS = Path(".cohort", "claims")


@contextmanager
def claim(output_dir: Path, study_id: str) -> Iterator[bool]:
    """Whether the study is ours for the duration of the block; false while another process holds it.

    The claim is a lock of the operating system, which releases it however the process ends.

    Raises
    ------
    OSError
        If the file system of `output_dir` has no locks.
    """
    path = output_dir / CLAIMS / f"{safe_name(study_id)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lock by the mere existence of a file would outlive a killed process.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
