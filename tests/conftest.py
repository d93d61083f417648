"""Settings of the whole suite."""

from __future__ import annotations

import atexit
import gc

# What is imported stays. The garbage collector would search it many times during the collection of the tests,
# and again at the end of the process: a quarter of the time that both take.
gc.disable()
atexit.register(gc.freeze)


def pytest_collection_finish() -> None:
    """Let the garbage collector work again, on what the tests make."""
    gc.freeze()
    gc.enable()
