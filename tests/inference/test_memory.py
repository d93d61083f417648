"""Memory that is freed during an inference is kept until its end, and given back then."""

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from medvit.inference import Execution, memory

MEGABYTE = 2**20
glibc = memory._allocator() is not None


def faults_of(arrays: int = 8, megabytes: int = 40) -> int:
    """Pages that the system hands out while arrays are written one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(arrays):
        torch.empty(megabytes * MEGABYTE // 4).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def test_the_pages_of_freed_arrays_are_handed_out_once() -> None:
    plain = faults_of()
    with memory.freed_memory_kept():
        faults_of()
        kept = faults_of()
    assert kept < plain / 5 if glibc else kept > 0


def test_memory_is_given_back_at_the_end() -> None:
    before = resident()
    with memory.freed_memory_kept(), memory.freed_memory_kept():
        torch.empty(200 * MEGABYTE // 4).fill_(1)
    assert resident() < before + 50


def test_an_inner_block_does_not_end_the_outer_one() -> None:
    with memory.freed_memory_kept():
        plain = faults_of()
        with memory.freed_memory_kept():
            pass
        kept = faults_of()
    assert kept < plain or not glibc


def test_an_execution_keeps_memory_in_its_threads_too() -> None:
    memory.share_one_arena()

    def run() -> int:
        with Execution().running([]):
            faults_of()
            return faults_of()

    plain = faults_of()
    with ThreadPoolExecutor(1) as threads:
        kept = threads.submit(run).result()
    assert kept < plain / 5 if glibc else kept > 0


@pytest.mark.parametrize("missing", [AttributeError, OSError, TypeError])
def test_without_glibc_nothing_changes(missing: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: object) -> None:
        raise missing

    memory._allocator.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", absent)
    try:
        with memory.freed_memory_kept():
            assert memory._allocator() is None
        memory.share_one_arena()
    finally:
        memory._allocator.cache_clear()
