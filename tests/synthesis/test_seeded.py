"""Samples are functions of the seed and their number, so that a training resumes where it stopped."""

from __future__ import annotations

import pytest
import torch

from medvit.synthesis import SeededDataset


def draw(dataset: SeededDataset, index: int) -> float:
    return float(torch.rand(1, generator=dataset.generator(dataset.number(index))))


def test_an_offset_continues_the_samples() -> None:
    whole, resumed = SeededDataset(10, seed=3), SeededDataset(6, seed=3)
    resumed.offset = 4
    assert [draw(resumed, i) for i in range(6)] == [draw(whole, i) for i in range(4, 10)]


def test_seeds_far_apart_in_bits_give_streams_of_their_own() -> None:
    # The generator itself takes 32 bits of a seed.
    seeds = (0, 1, 2**32, 2**32 + 1)
    assert len({draw(SeededDataset(1, seed), 0) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("index", [-1, 5])
def test_it_ends(index: int) -> None:
    dataset = SeededDataset(5, 0)
    assert len(dataset) == 5
    with pytest.raises(IndexError):
        dataset.number(index)
