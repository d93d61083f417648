"""A cohort on one machine with one Dask worker a GPU: `python workflows/cohort/local.py BUNDLE INPUT OUTPUT`.

On a machine without GPUs, or with one, `medvit cohort` alone does the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import torch
from distributed import LocalCluster

from medvit.bundles import find_bundle
from medvit.runs import run_cohort


def main() -> int:
    """Start a scheduler and its workers, run the cohort, and end them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("input", nargs="+")
    parser.add_argument("output")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds a study may take")
    options = parser.parse_args()
    with LocalCluster(n_workers=0, dashboard_address=None) as scheduler:
        address = scheduler.scheduler_address
        workers = [_worker(address, gpu) for gpu in range(torch.cuda.device_count())]
        try:
            return run_cohort(
                find_bundle(options.bundle),
                options.input,
                options.output,
                scheduler=address,
                time_limit=options.time_limit,
                gpu=True,
                device="$torch.device('cuda')",
            )
        finally:
            for worker in workers:
                worker.terminate()


def _worker(address: str, gpu: int) -> subprocess.Popen[bytes]:
    options = ["--no-nanny", "--nthreads", "1", "--resources", "GPU=1"]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, *options]
    return subprocess.Popen(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": str(gpu)})


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no GPU was found: use `medvit cohort` as it is")
    sys.exit(main())
