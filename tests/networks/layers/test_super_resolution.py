"""Windows, offsets and enlargement of the super-resolution transformers, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvit.errors import WeightsError
from medvit.networks.layers.super_resolution import (
    checked_tables,
    rgb_mean,
    upsampler,
    window_offsets,
    windows_of,
    windows_to_map,
)


def test_windows_by_hand() -> None:
    pixels = torch.arange(24).reshape(1, 4, 6, 1)
    assert windows_of(pixels, 2, 3)[..., 0].tolist() == [
        [0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11], [12, 13, 14, 18, 19, 20], [15, 16, 17, 21, 22, 23]
    ]  # fmt: skip
    assert torch.equal(windows_of(pixels, 2), windows_of(pixels, 2, 2))
    assert torch.equal(windows_to_map(windows_of(pixels, 2, 3), (2, 3), 4, 6), pixels)
    several = torch.rand(3, 4, 4, 5)
    assert torch.equal(windows_to_map(windows_of(several, 2), 2, 4, 4), several)


def test_offsets_within_a_window_by_hand() -> None:
    # Pixels (0, 0), (0, 1), (1, 0), (1, 1); a table of 3 x 3 whose middle is no offset.
    assert window_offsets(2, 2, torch.device("cpu")).tolist() == [
        [4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]
    ]  # fmt: skip


def test_offsets_into_a_wider_window() -> None:
    signed = window_offsets(2, 4, torch.device("cpu"), wrapped=False)
    wrapped = window_offsets(2, 4, torch.device("cpu"))
    assert signed.shape == wrapped.shape == (4, 16)
    # From the query (0, 0) to the key (0, 0): row and column -1 of a table with sides of 5.
    assert (signed[0, 0], signed[0, 5], signed[3, 0]) == (-6, 0, -12)
    table = torch.rand(25)
    assert torch.equal(table[signed], table[wrapped]) and wrapped.min() >= 0


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_enlargement(factor: int) -> None:
    enlarge = upsampler(2, factor)
    assert enlarge(torch.rand(1, 2, 3, 5)).shape == (1, 2, 3 * factor, 5 * factor)
    assert (
        sum(isinstance(layer, nn.PixelShuffle) for layer in enlarge) == {1: 0, 2: 1, 3: 1, 4: 2, 8: 3}[factor]
    )


@pytest.mark.parametrize("factor", [0, -2, 5, 6])
def test_other_factors_are_refused(factor: int) -> None:
    with pytest.raises(ValueError, match="upscale must be 1, 3 or a power of two"):
        upsampler(2, factor)


def test_the_mean_of_natural_images_is_for_three_channels() -> None:
    assert rgb_mean(3).flatten().tolist() == pytest.approx([0.4488, 0.4371, 0.4040])
    assert rgb_mean(1).tolist() == [[[[0.0]]]]


def test_tables_of_other_windows_are_refused() -> None:
    own = {"index": [torch.arange(4), torch.arange(4) + 1], "mask": [torch.zeros(2)]}
    assert checked_tables({"index": torch.arange(4) + 1}, own, "HAT") == ("index",)
    assert checked_tables({}, own, "HAT") == ()
    with pytest.raises(WeightsError, match="does not fit HAT: index belongs to another window size"):
        checked_tables({"index": torch.arange(4) + 2}, own, "HAT")
