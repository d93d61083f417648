"""Costs of a bundle: parameters, floating-point operations, peak memory, and the hardware used."""

from __future__ import annotations

import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def watched_shapes(network: nn.Module) -> Iterator[Counter[tuple[int, ...]]]:
    """Counts the shapes of the inputs of `network`."""
    shapes: Counter[tuple[int, ...]] = Counter()
    hook = network.register_forward_hook(lambda _, inputs, __: shapes.update([tuple(inputs[0].shape)]))
    try:
        yield shapes
    finally:
        hook.remove()


def gflops(network: nn.Module, shape: tuple[int, ...]) -> float:
    """10^9 floating-point operations of one forward pass, a multiplication and an addition being two.

    Counted are convolutions, matrix products and attention, as `torch.utils.flop_counter` knows them; not
    counted are norms, activations, interpolations, and recurrences such as a selective scan.
    """
    parameter = next(network.parameters())
    window = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    wanting = [p for p in network.parameters() if p.requires_grad]
    for p in wanting:
        p.requires_grad_(False)
    # Fast paths of inference call kernels that the counter does not know; with gradients enabled, networks
    # take the plain path, and attention is computed as two explicit products.
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(window)
    finally:
        for p in wanting:
            p.requires_grad_(True)
    return counter.get_total_flops() / 1e9


def parameters(network: nn.Module) -> int:
    """The number of learnt parameters; shared ones count once."""
    return sum(p.numel() for p in network.parameters())


def peak_memory_mb() -> float | None:
    """Peak memory of this process in 10^6 bytes; `None` if the system does not report it."""
    status = Path("/proc/self/status")
    if status.is_file():  # of this program alone, whereas getrusage includes what its parent held at the fork
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(peak[1]) * 1024 / 1e6 if peak else None
    if sys.platform == "win32":
        return None
    import resource

    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss * (1 if sys.platform == "darwin" else 1024) / 1e6


def peak_gpu_memory_mb(device: torch.device) -> float | None:
    """Peak memory of tensors on a CUDA device in 10^6 bytes; `None` on other devices."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None


def machine(device: torch.device) -> dict[str, str | int]:
    """The hardware: processor, threads, and the GPU if one is used."""
    facts: dict[str, str | int] = {"processor": processor(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return model[1].strip() if model else platform.processor() or platform.machine()


def device_of(network: nn.Module) -> torch.device:
    """Device of the network."""
    tensors: list[Tensor] = [*network.parameters(), *network.buffers()]
    return tensors[0].device
