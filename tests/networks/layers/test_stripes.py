"""Stripes: which tokens share a window, and attention within it against a softmax written out."""

from __future__ import annotations

import pytest
import torch

from medvit.networks.layers.stripes import CSwinBlock, _Windows, crossed_stripes


def test_stripes_cross_each_other() -> None:
    assert crossed_stripes(2) == ((None, 2), (2, None))
    assert crossed_stripes(7, whole=True) == ((None, None),)


def test_windows_hold_neighbours_and_come_back() -> None:
    rows, columns = 3, 4
    tokens = torch.arange(1.0, 13).reshape(1, rows, columns, 1, 1).expand(1, rows, columns, 3, 2)
    upright = _Windows.of((rows, columns), (None, 2))
    cut = upright.cut(tokens)
    assert cut.shape == (2, 6, 3, 2)
    assert cut[:, :, 0, 0].tolist() == [[1, 2, 5, 6, 9, 10], [3, 4, 7, 8, 11, 12]]
    assert torch.equal(upright.join(cut[:, :, 0]), tokens[:, :, :, 0])
    # Rows of 2 need a fourth row, which is put below; one of zeros.
    level = _Windows.of((rows, columns), (2, None))
    assert level.margins == ((0, 1), (0, 0))
    cut = level.cut(tokens)
    assert cut[:, :, 0, 0].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 0, 0, 0, 0]]
    assert torch.equal(level.join(cut[:, :, 0]), tokens[:, :, :, 0])


def test_windows_of_volumes_and_batches_come_back() -> None:
    x = torch.rand(2, 5, 3, 4, 3, 6)
    for stripe in ((2, None, None), (None, 2, 3), (4, 3, 2)):
        windows = _Windows.of((5, 3, 4), stripe)
        assert torch.equal(windows.join(windows.cut(x)[:, :, 1]), x[..., 1, :])


def test_attention_is_the_softmax_within_each_stripe() -> None:
    torch.manual_seed(0)
    block = CSwinBlock(4, 2, crossed_stripes(1)).eval()
    x = torch.rand(1, 3, 2, 4)
    with torch.no_grad():
        query, key, value = block.qkv(x).unflatten(-1, (3, 4)).unbind(-2)
        expected = torch.empty_like(x)
        for channels, axis, position in ((slice(0, 2), 1, block.attns[0]), (slice(2, 4), 2, block.attns[1])):
            # Columns of one token's width for the first half of the channels, rows for the second.
            for n in range(x.shape[3 - axis]):
                q, k, v = (t[..., channels].select(3 - axis, n)[0] for t in (query, key, value))
                weights = torch.softmax(q @ k.T / 2**0.5, dim=-1)
                window = v.T[None, :, :, None] if axis == 1 else v.T[None, :, None, :]
                local = position(window).flatten(2)[0].T
                expected[..., channels].select(3 - axis, n)[0] = weights @ v + local
        found = block._attended(block.qkv(x))
    torch.testing.assert_close(found, expected)


def test_heads_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match="2 groups of stripes cannot share 6 channels of 3 heads"):
        CSwinBlock(6, 3, crossed_stripes(2))
