"""Memory that is freed during an inference is kept until its end, and given back then."""

import resource
import subprocess
import sys
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


def test_gaps_are_given_back_on_the_way() -> None:
    with memory.freed_memory_kept():
        before = resident()
        torch.empty(200 * MEGABYTE // 4).fill_(1)
        memory.give_back()
        assert resident() < before + 50


def test_an_inner_block_does_not_end_the_outer_one() -> None:
    with memory.freed_memory_kept():
        plain = faults_of()
        with memory.freed_memory_kept():
            pass
        kept = faults_of()
    assert kept < plain or not glibc


# Arrays of more than 64 MB, in a thread that follows another one, as a run infers its studies.
IN_THREADS = """
import resource, threading
from concurrent.futures import ThreadPoolExecutor
import numpy
from medvit.inference import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        numpy.ones(96 * 2**20, numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def kept():
    with memory.freed_memory_kept():
        faults()
        return faults()

memory.share_one_arena()
early = threading.Thread(target=faults)
early.start()
early.join()
with ThreadPoolExecutor(1) as threads:
    print(faults(), threads.submit(kept).result())
"""


def test_threads_of_a_command_keep_memory_too() -> None:
    done = subprocess.run([sys.executable, "-c", IN_THREADS], capture_output=True, text=True, check=True)
    plain, kept = map(int, done.stdout.split())
    assert kept < plain / 5 if glibc else kept > 0


def test_an_execution_keeps_memory() -> None:
    plain = faults_of()
    with Execution().running([]):
        faults_of()
        kept = faults_of()
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
