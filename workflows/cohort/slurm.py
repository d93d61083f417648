"""A cohort on a SLURM cluster: `python workflows/cohort/slurm.py BUNDLE INPUT OUTPUT --jobs 8`.

Each job is one Dask worker with one GPU. INPUT and OUTPUT must be the same folders on all nodes, on a file
system with locks (NFS 4, Lustre mounted with `flock`, GPFS). To install: medvit[cluster], dask-jobqueue.
"""

from __future__ import annotations

import argparse
import sys

from dask_jobqueue import SLURMCluster

from medvit.bundles import find_bundle
from medvit.runs import run_cohort


def main() -> int:
    """Ask for the jobs, run the cohort, and end them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("input", nargs="+")
    parser.add_argument("output")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--partition", default=None)
    parser.add_argument("--account", default=None)
    parser.add_argument("--cpus", type=int, default=8)
    parser.add_argument("--memory", default="32GB")
    parser.add_argument("--walltime", default="08:00:00")
    parser.add_argument("--no-gpu", action="store_true")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds a study may take")
    options = parser.parse_args()
    gpu = not options.no_gpu
    cluster = SLURMCluster(
        queue=options.partition,
        account=options.account,
        cores=1,  # one study at a time in each job
        processes=1,
        job_cpu=options.cpus,
        memory=options.memory,
        walltime=options.walltime,
        nanny=False,  # a worker starts processes of its own, which a nanny forbids
        job_extra_directives=["--gres=gpu:1"] if gpu else [],
        worker_extra_args=["--resources", "GPU=1"] if gpu else [],
    )
    with cluster:
        cluster.scale(jobs=options.jobs)
        return run_cohort(
            find_bundle(options.bundle),
            options.input,
            options.output,
            scheduler=cluster.scheduler_address,
            time_limit=options.time_limit,
            gpu=gpu,
        )


if __name__ == "__main__":
    sys.exit(main())
