"""Processes that tests start: two of one training, in the environment that ``torchrun`` gives them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: First line of a program that imports much and ends soon: the garbage collector need not search what is
#: imported, neither now nor at the end.
WITHOUT_COLLECTOR = "import atexit, gc; gc.disable(); atexit.register(gc.freeze)\n"

# Both are forked from one process that has imported what is slow to import. One that fails ends the other.
_SCRIPT = (
    WITHOUT_COLLECTOR
    + """\
import os, runpy, signal, sys
import monai.bundle, medvit.training, medvit.runs.evaluator, medvit.synthesis, torch._dynamo
gc.freeze()
gc.enable()

children = []
for rank in ("0", "1"):
    if not (child := os.fork()):
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        sys.exit(0)
    children.append(child)
codes = []
while len(codes) < 2:
    codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
    if codes[-1]:
        for child in children:
            try:
                os.kill(child, signal.SIGTERM)
            except ProcessLookupError:
                pass
sys.exit(any(codes))
"""
)


def run_in_two_processes(arguments: Sequence[str], log: Path, seconds: float = 300) -> str:
    """Run ``python -m monai.bundle run ARGUMENTS`` in two processes; what they wrote, which `log` keeps.

    Processes that do not end in time are killed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    # Not to a pipe, which a process that is left over would keep open.
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, "run", *arguments],
            cwd="/", env=environment, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(60)
    assert code == 0, log.read_text()[-3000:]
    return log.read_text()
