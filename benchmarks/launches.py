"""What the sliding window asks of a device, counted on a CPU: operators launched and values read back.

    OMP_NUM_THREADS=1 python benchmarks/launches.py [--classes 14 104] [--target-spacing 0.8]

On a GPU each operator is at least one launch of a few microseconds, and each value read back makes the host
wait for all work queued before it. Views cost nothing and are not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _measure import Launches
from inference import Bands, phantom

from medvit.inference import StreamingWindowInferer
from medvit.inference.execution import DEVICE_BLOCK_BYTES, Execution
from medvit.studies import Grid


def count(run: Callable[[], object]) -> Launches:
    """Operators of one run."""
    with Launches() as launches:
        run()
    return launches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs=3, type=int, default=[256, 256, 192])
    parser.add_argument("--classes", nargs="+", type=int, default=[14, 104])
    parser.add_argument("--batch", type=int, default=4, help="windows at once")
    parser.add_argument("--target-spacing", type=float, help="mm of a grid of the study that is not 1 mm")
    parser.add_argument("--most", type=int, default=0, help="how many operators to list by name")
    options = parser.parse_args()
    image, target = phantom(tuple(options.size)), None
    if options.target_spacing:
        x, y, z = (round(n / options.target_spacing) for n in options.size)
        target = Grid((x, y, z), torch.diag(torch.tensor([options.target_spacing] * 3 + [1.0])).numpy())
    for classes in options.classes:
        network = Bands(classes)
        inferer = StreamingWindowInferer(
            96, 0.5, options.batch, execution=Execution(block_bytes=DEVICE_BLOCK_BYTES)
        )
        launches = count(lambda i=inferer, n=network: i.segment(image, n, target))
        print(f"{classes} classes: {launches.reads} values read back, {launches.operators} operators")
        for name, number in launches.counts.most_common(options.most):
            print(f"    {number:7d} {name}")


if __name__ == "__main__":
    main()
