"""Interleaved CPU times, peak memory and counted operators, for the benchmarks of this folder."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


def interleaved(
    rounds: int, runs: Mapping[str, Callable[[], Any]]
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """CPU seconds of each run in each round, and what each gave; every round runs them all, in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    results = {}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.process_time()
            results[name] = run()
            times[name].append(time.process_time() - started)
    return times, results


def ratio(times: Mapping[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of ours / theirs."""
    return statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True))


def status(field: str) -> float:
    """A memory field of this process, such as ``VmHWM`` (peak) or ``VmRSS`` (present), in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak_of(run: Callable[[], object]) -> float:
    """MB that `run` needs at most over what the process holds before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def anonymous_peak_of(run: Callable[[], object]) -> float:
    """As `peak_of`, without the pages of mapped files, which the kernel may drop; looked at every 10 ms."""
    done, levels = threading.Event(), [status("RssAnon")]

    def watch() -> None:
        while not done.wait(0.01):
            levels.append(status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(levels) - levels[0]


def in_own_process(script: str, *arguments: object) -> dict[str, float]:
    """What a worker of a benchmark prints as the last line, as JSON."""
    command = [sys.executable, "-W", "ignore", script, "--worker", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": float(done.returncode)}
    return json.loads(done.stdout.splitlines()[-1])


class Operators(TorchDispatchMode):
    """Gives `launch` each operator that a device would launch inside the ``with`` block."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            # Without gradients an operator made of others arrives whole; what it is made of is launched.
            parts = func.decompose(*args, **kwargs)
        return self.launch(func, args, kwargs) if parts is NotImplemented else parts

    def launch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operator, and return its result."""
        return func(*args, **kwargs)


class Launches(Operators):
    """Counts the operators that run inside the ``with`` block, by name."""

    #: Reading one value back; `nonzero` and boolean indices read back how many there are.
    READS = ("_local_scalar_dense", "nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def launch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Count the operator, unless it is a view, and run it."""
        if not func.is_view:
            self.counts[func.name().removeprefix("aten::").partition(".")[0]] += 1
        return func(*args, **kwargs)

    @property
    def reads(self) -> int:
        """How often the host waited for a value."""
        return sum(self.counts[name] for name in self.READS)

    @property
    def operators(self) -> int:
        """Operators that are neither views nor reads."""
        return self.counts.total() - self.reads
