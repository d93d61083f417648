"""Training on several devices, one process each, as ``torchrun`` starts them."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def join_process_group() -> torch.device:
    """Join the processes that ``torchrun`` has started, over NCCL on GPUs and gloo without.

    Returns
    -------
    torch.device
        The device of this process.
    """
    rank = int(os.environ.get("LOCAL_RANK", 0))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return torch.device("cuda", rank) if on_gpu else torch.device("cpu")


def leave_process_group() -> None:
    """Wait for the others, then part from them."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes train together; 1 for one by itself."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that logs and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def data_parallel(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """`network`, whose gradients are averaged over the processes."""
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
