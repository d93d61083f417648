"""Random numbers of a batch: choices on the host, noise on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Draw:
    """Random numbers of `count` samples.

    Numbers that decide how a sample is made are drawn on the host, where a program may read them; reading
    them from a GPU would wait for all work queued there. Noise is drawn where it is needed.

    Parameters
    ----------
    generator
        Generator on the CPU, which determines everything.
    count
        Samples in the batch.
    device
        Device of the voxels.
    """

    def __init__(self, generator: torch.Generator, count: int, device: torch.device) -> None:
        self.count = count
        self.device = device
        self._host = generator
        seed = int(torch.randint(2**62, (), generator=generator))
        self._noise = torch.Generator(device).manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(count, *shape) on the host."""
        return torch.rand(self.count, *shape, generator=self._host) * (high - low) + low

    def gaussian(self, *shape: int) -> Tensor:
        """(count, *shape) on the host."""
        return torch.randn(self.count, *shape, generator=self._host)

    def chance(self, probability: float) -> Tensor:
        """(count,) booleans on the host."""
        return self.uniform(0, 1) < probability

    def chosen(self, probability: float) -> list[int]:
        """Numbers of the samples to which something with `probability` happens."""
        return [n for n, happens in enumerate(self.chance(probability).tolist()) if happens]

    def integers(self, count: int) -> list[int]:
        """One of 0 .. `count` - 1 for each sample."""
        return torch.randint(count, (self.count,), generator=self._host).tolist()

    def pick(self, shares: Sequence[float]) -> Tensor:
        """(count,) places in `shares`, each with its share, on the host."""
        return torch.multinomial(
            torch.tensor(shares, dtype=torch.float32), self.count, replacement=True, generator=self._host
        )

    def field(self, *shape: int) -> Tensor:
        """(count, *shape) Gaussian noise on the device."""
        return torch.randn(self.count, *shape, generator=self._noise, device=self.device)

    def put(self, values: Tensor) -> Tensor:
        """`values` of the host on the device, without waiting for it."""
        return values.to(self.device, non_blocking=True)

    def put_each(self, values: Tensor) -> Tensor:
        """(count,) of the host as (count, 1, 1, 1) on the device."""
        return self.put(values).view(-1, 1, 1, 1)
