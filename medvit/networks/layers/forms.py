"""The choice between few large operations, for a device, and small ones, for a CPU's cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_AS_ON_DEVICE = ContextVar("as_on_device", default=False)


def on_device(x: Tensor) -> bool:
    """Whether to use few large operations for `x`: off the CPU, or where `as_on_device` asks for them."""
    return x.device.type != "cpu" or _AS_ON_DEVICE.get()


@contextmanager
def as_on_device() -> Iterator[None]:
    """Make networks use their device form on a CPU as well, for counting operations and for tests."""
    token = _AS_ON_DEVICE.set(True)
    try:
        yield
    finally:
        _AS_ON_DEVICE.reset(token)
