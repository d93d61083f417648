"""Cost of a training, measured on a few of its steps."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass

import torch

from medvit.losses import SparseDiceCELoss
from medvit.training.network import build

_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """Costs of a training.

    Parameters
    ----------
    step, window
        Seconds of an optimiser step, and of one window in validation.
    memory
        Peak number of bytes used on the device, or by the process if the device is the CPU.
    checkpoint
        Bytes of one checkpoint: the weights, their average and the best, and AdamW's two moments.
    """

    step: float
    window: float
    memory: int
    checkpoint: int


def measure(
    network: dict, window: tuple[int, ...], batch_size: int, channels: int, device: torch.device
) -> Cost:
    """Time and memory of steps on random images.

    The first step, which sets up what the others reuse, is not counted.

    Parameters
    ----------
    network
        Configuration of the network, with its final channels and classes.
    window
        Edges in voxels, along the network's axes.
    """
    model = build(network).to(device).train()
    loss_function, optimizer = SparseDiceCELoss(), torch.optim.AdamW(model.parameters())
    image = torch.rand(batch_size, channels, *window, device=device)
    label = torch.zeros(batch_size, 1, *window, dtype=torch.uint8, device=device)
    label[..., : window[-1] // 2] = 1
    times = []
    for _ in range(_STEPS):
        started = _now(device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            prediction = model(image)
        loss_function(prediction, label).backward()
        optimizer.step()
        times.append(_now(device) - started)
    with torch.no_grad():
        model.eval()
        started = _now(device)
        model(image[:1])
        predicted = _now(device) - started
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    memory = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return Cost(min(times[1:]), predicted, memory, 5 * parameters)


def windows_of(shape: tuple[int, ...], window: tuple[int, ...]) -> int:
    """Number of windows that cover a study of a shape with an overlap of a half."""
    steps = (max(math.ceil(2 * (n - w) / w), 0) + 1 for n, w in zip(shape, window, strict=True))
    return math.prod(steps)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
