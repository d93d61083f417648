"""Parameters, operations and CPU seconds of the networks that can be trained by name, as a Markdown table."""

from __future__ import annotations

import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from medvit.losses import SparseDiceCELoss
from medvit.training.architectures import NETWORKS, SIZES, SLICEWISE, definition_of
from medvit.training.network import build, fitted
from medvit.training.windows import batch_for, refusal

VOLUME, SLICE = (48, 64, 48), (48, 64)


def row(network: str, size: str) -> str:
    """A line of the table."""
    definition = definition_of(network, size)
    window: tuple[int, ...] = SLICE if network in SLICEWISE else VOLUME
    if refusal(definition, window):
        window = (64,) * len(window)
    model = build(fitted(definition, 1, 3, window))
    batch = batch_for(window)
    image, label = torch.rand(batch, 1, *window), torch.randint(0, 3, (batch, 1, *window))
    optimizer = torch.optim.AdamW(model.parameters())
    seconds = []
    for _ in range(2):
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        SparseDiceCELoss()(model(image), label).backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    model.eval()
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(image[:1])
        started = time.process_time()
        model(image[:1])
        forward = time.process_time() - started
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    shape = " x ".join(map(str, window))
    return (
        f"| {network} | {size} | {parameters:.1f} | {shape} | {counter.get_total_flops() / 1e9:.1f} | "
        f"{forward:.2f} | {batch} | {min(seconds):.1f} |"
    )


def main() -> None:
    """Print the table, or the rows of the networks that are named."""
    named = sys.argv[1:] or NETWORKS
    torch.set_num_threads(1)
    print("| network | size | parameters (M) | window | GFLOPs | CPU s forward | windows | CPU s a step |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for network in named:
        for size in SIZES:
            print(row(network, size), flush=True)


if __name__ == "__main__":
    main()
