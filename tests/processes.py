"""Two processes of one training, as ``torchrun`` starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def run_in_two_processes(arguments: Sequence[str], log: Path, seconds: float = 300) -> str:
    """Run ``python -m monai.bundle run ARGUMENTS`` in two processes; what they wrote, which `log` keeps.

    Processes that do not end in time are killed with all that they started.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "monai.bundle", "run", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # Not to a pipe, which a process that is left over would keep open.
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd="/", env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # torchrun ends its workers, which lead groups
                process.wait(60)
    assert code == 0, log.read_text()[-3000:]
    return log.read_text()
