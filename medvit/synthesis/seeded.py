"""Datasets whose samples depend on a seed and a number, so that an interrupted training can be resumed."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset


class SeededDataset(Dataset):
    """Numbers its samples from an offset.

    Parameters
    ----------
    length
        Samples of an epoch.
    seed
        Seed of the random numbers; each seed gives different samples.

    Attributes
    ----------
    offset
        Number of the first sample; a resumed training sets it to continue where it stopped.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.offset = 0

    def __len__(self) -> int:
        return self.length

    def number(self, index: int) -> int:
        """Number of a sample, counted over all epochs.

        Raises
        ------
        IndexError
            If the index is not in the epoch.
        """
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.offset + index

    def generator(self, number: int) -> torch.Generator:
        """Random numbers of a sample."""
        # torch's CPU generator takes 32 bits of a seed; a hash keeps the streams of two seeds apart.
        state = np.random.SeedSequence([self.seed, number]).generate_state(1)
        return torch.Generator().manual_seed(int(state[0]))
