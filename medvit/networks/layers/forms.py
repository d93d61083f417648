"""Which form of a function runs: few large operations for a device, or small ones for a CPU's cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_AS_ON_DEVICE = ContextVar("as_on_device", default=False)


def on_device(x: Tensor) -> bool:
    """Whether `x` calls for few large operations: it is not on a CPU, or `as_on_device` says so."""
    return x.device.type != "cpu" or _AS_ON_DEVICE.get()


@contextmanager
def as_on_device() -> Iterator[None]:
    """On a CPU too, the networks take the form that they have on a device, such as for counting and tests."""
    token = _AS_ON_DEVICE.set(True)
    try:
        yield
    finally:
        _AS_ON_DEVICE.reset(token)
