"""Training on several devices with one process each, started by ``torchrun``."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def join_process_group() -> torch.device:
    """Join the processes that ``torchrun`` has started, over NCCL on GPUs and gloo without.

    Ignite performs the joining: if it found the group by itself, the first process to ask would wait for the
    others to ask as well.

    Returns
    -------
    torch.device
        The device of this process.
    """
    if idist.backend() is None:
        idist.initialize("nccl" if torch.cuda.is_available() else "gloo")
    return idist.device()


# Process groups that were left. The last reference to one must not go while the interpreter's lock is held:
# gloo's destructor waits for its thread, which may be waiting for that lock to release the last message.
_left: list[Any] = []


def leave_process_group() -> None:
    """Wait for the others, then leave the group."""
    idist.barrier()
    if distributed.is_initialized():
        _left.append(distributed.group.WORLD)
    idist.finalize()


def world_size() -> int:
    """Number of processes that train together; 1 for a single one."""
    return idist.get_world_size()


def is_first() -> bool:
    """Whether this process is the one that logs and writes."""
    return idist.get_rank() == 0


def data_parallel(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """`network`, whose gradients are averaged over the processes."""
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
