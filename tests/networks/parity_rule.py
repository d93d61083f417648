"""One rule that fills any published state dict and input, so that two implementations can be compared.

The numbers come from numpy's frozen RandomState, seeded by each entry's name: a manifest of names and
shapes is enough to rebuild the same weights anywhere, and no weight file travels.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def fill_entry(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values for the state-dict entry `name`.

    Two or more axes: normal, scaled by 1/sqrt(fan_in) (first axis: outputs). One axis: ``*running_var`` is
    1 + 0.1 |n|, ``*weight`` is 1 + 0.1 n, the rest is 0.1 n.
    """
    n = np.random.RandomState(zlib.crc32(name.encode())).randn(*shape).astype(np.float32)
    if n.ndim >= 2:
        return (n / np.sqrt(max(int(np.prod(shape[1:])), 1))).astype(np.float32)
    if name.endswith("running_var"):
        return (1 + 0.1 * np.abs(n)).astype(np.float32)
    if name.endswith("weight"):
        return (1 + 0.1 * n).astype(np.float32)
    return np.asarray(0.1 * n, dtype=np.float32)


def fill_state(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The published-layout state dict with the given entry shapes (float entries only)."""
    return {name: torch.from_numpy(fill_entry(name, tuple(s)).reshape(s)) for name, s in shapes.items()}


def make_input(seed_name: str, shape: tuple[int, ...]) -> Tensor:
    """A standard-normal float32 input, seeded by its name."""
    n = np.random.RandomState(zlib.crc32(seed_name.encode())).randn(*shape)
    return torch.from_numpy(n.astype(np.float32))
