"""Reuse of memory that inference frees and allocates again, which the system would clear each time."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_MOST_KEPT = 2**31 - 1
# The values that glibc itself reaches in a process that frees large arrays.
_USUAL_MMAPS, _USUAL_THRESHOLD = 65536, 32 * 2**20

_lock = threading.Lock()
_users = 0


@lru_cache
def _allocator() -> Any:
    """The C library, if its allocator is glibc's; ``None`` on other systems."""
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory for the next allocation inside the block, and give it back to the system at its end.

    A network frees and allocates arrays of 100 MB at every window. By default glibc returns each of them to
    the system, which clears every page before it hands it out again: a third of the CPU time of an inference.
    Blocks may overlap in several threads. On systems without glibc nothing changes.
    """
    global _users
    library = _allocator()
    if library is None:
        yield
        return
    with _lock:
        _users += 1
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                library.mallopt(_MMAP_MAX, _USUAL_MMAPS)
                library.mallopt(_MMAP_THRESHOLD, _USUAL_THRESHOLD)
                library.mallopt(_TRIM_THRESHOLD, 2 * _USUAL_THRESHOLD)
                library.malloc_trim(0)


def give_back() -> None:
    """Return what is kept and not in use to the system, so that gaps between arrays do not add up."""
    library = _allocator()
    if library is not None and _users:
        library.malloc_trim(0)


def share_one_arena() -> None:
    """Let threads that start from now on allocate where the main thread does.

    glibc gives threads separate arenas, which cannot keep arrays of more than 64 MB and are reused by later
    threads. To be called before a program starts its first thread.
    """
    library = _allocator()
    if library is not None:
        library.mallopt(_ARENA_MAX, 1)
