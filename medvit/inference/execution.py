"""Where and how networks run: device, precision, threads, memory for blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from medvit.errors import MedvitError
from medvit.inference.backends import Backend, checked_backend
from medvit.inference.memory import freed_memory_kept

Network = Callable[..., Any]

#: Bytes of logits that are interpolated and reduced at once on a CPU: one class stays in the cache.
CPU_BLOCK_BYTES = 1 << 19
#: The same on any other device: large enough that launching costs little, small beside one window's maps.
DEVICE_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Execution:
    """Where and how networks run.

    Parameters
    ----------
    device
        Device of the networks; ``None`` for where their parameters are.
    amp
        Precision of autocast (``"bf16"``, or on a GPU ``"fp16"``); ``None`` for float32. Logits are blended
        in float32 all the same.
    compile
        Whether networks are compiled in place by `torch.compile`, once each; or the backend it is to use.
    channels_last
        Whether windows are given in channels-last memory.
    threads
        CPU threads during the inference; ``None`` leaves the setting alone.
    tf32
        Whether a GPU may round the factors of float32 products to 10 bits; ``None`` leaves PyTorch's
        setting alone.
    graphs
        Whether a GPU records the launches of a network as a CUDA graph at the first windows of a shape, and
        replays them from then on. A network that cannot be recorded, or whose replay answers otherwise, is
        called as usual, and the report says so.
    block_bytes
        Memory for logits that are interpolated and reduced at once. All classes of a block are taken
        together where that leaves blocks of a sensible size, else one after the other. ``None`` for what
        suits the device.
    backend
        What runs the networks on a CPU: ``"torch"``, or ``"openvino"`` or ``"onnxruntime"``, for which they
        are converted once: see `medvit.inference.conversion`. With either of these, ``amp`` is the precision
        of the engine.
    fall_back
        Whether a network that the backend cannot run is run by torch, with a note in the report, instead of
        being refused.
    """

    device: str | torch.device | None = None
    amp: Literal["bf16", "fp16"] | None = None
    compile: bool | str | Callable[..., Any] = False
    channels_last: bool = False
    threads: int | None = None
    tf32: bool | None = None
    graphs: bool = True
    block_bytes: int | None = None
    backend: Backend = "torch"
    fall_back: bool = False

    def __post_init__(self) -> None:
        if self.amp not in (None, "bf16", "fp16"):
            raise MedvitError(f"there is no precision {self.amp!r}; choose bf16 or fp16, or none for float32")
        checked_backend(self.backend)

    def check(self, device: torch.device | str) -> None:
        """Refuse a precision or a backend that `device` does not support.

        Raises
        ------
        MedvitError
            If it lacks bf16, fp16 or TF32, or is not a CPU and the backend is not torch.
        """
        if self.amp is None and not self.tf32 and self.backend == "torch":
            return
        device = torch.device(device)
        if self.backend != "torch" and device.type != "cpu":
            raise MedvitError(
                f"the backend {self.backend} runs on a CPU, not on {_name(device)}; "
                "use --device cpu, or leave out --backend"
            )
        cuda = device.type == "cuda"
        # Both came with compute capability 8; AMD's GPUs, which torch calls "cuda" too, count otherwise.
        recent = cuda and (
            torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
        )
        if self.amp == "bf16" and cuda and not recent:
            raise MedvitError(f"{_name(device)} has no bf16; use --amp fp16 or off")
        if self.amp == "fp16" and device.type == "cpu":
            raise MedvitError("fp16 needs a GPU; on a CPU use --amp bf16 or off")
        if self.tf32 and not recent:
            raise MedvitError(
                f"TF32 needs an NVIDIA GPU of 2020 or later, and {_name(device)} is not; leave out --tf32"
            )

    def block(self, channels: int, device: torch.device) -> tuple[int, bool]:
        """Voxels of a block, and whether all channels of it are taken at once."""
        values = (self.block_bytes or (CPU_BLOCK_BYTES if device.type == "cpu" else DEVICE_BLOCK_BYTES)) // 4
        whole = channels * (CPU_BLOCK_BYTES // 4) <= values
        return values // channels if whole else values, whole

    def device_for(self, networks: Sequence[Network]) -> torch.device:
        """The device that was asked for, or else that of the first parameter or buffer, or else the CPU."""
        if self.device is not None:
            return torch.device(self.device)
        modules = nn.ModuleList(n for n in networks if isinstance(n, nn.Module))
        held = itertools.chain(modules.parameters(), modules.buffers())
        return next((tensor.device for tensor in held), torch.device("cpu"))

    @contextmanager
    def running(self, networks: Sequence[Network]) -> Iterator[None]:
        """Disable gradients, keep freed memory, set evaluation mode, threads and TF32; then restore all."""
        modules = [n for n in networks if isinstance(n, nn.Module) and n.training]
        threads = torch.get_num_threads()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.device_for(networks).type == "cpu":
                stack.enter_context(freed_memory_kept())
            if self.tf32 is not None:
                stack.enter_context(_tf32(self.tf32))
            try:
                torch.set_num_threads(self.threads or threads)
                for module in modules:
                    module.eval()
                yield
            finally:
                torch.set_num_threads(threads)
                for module in modules:
                    module.train()

    def records(self, device: torch.device) -> bool:
        """Whether launches are recorded on that device."""
        return self.graphs and not self.compile and device.type == "cuda"

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Autocast for the networks alone; their logits are processed in float32."""
        if self.amp is None or self.backend != "torch":
            return nullcontext()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.amp]
        # A cache of weights in half precision must not outlive the graph that was recorded with it.
        return torch.autocast(device.type, dtype, cache_enabled=not self.records(device))


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"device {device}"


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
