"""Reducers: all classes at once and one class after the other give one answer, and it is the formula's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medvit.inference.reduce import (
    Argmax,
    Entropy,
    Probability,
    Reducer,
    Regions,
    SigmoidEntropy,
    SigmoidProbability,
    Values,
    WideArgmax,
    map_reducer,
)

LOGITS = 4 * torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def one_by_one(reducer: Reducer, logits: Tensor) -> Tensor:
    for channel, values in enumerate(logits):
        buffer = values.clone()
        reducer.update(channel, buffer)
        buffer.fill_(math.nan)  # a map is only valid during the call
    return reducer.finish()


def entropy(logits: Tensor) -> Tensor:
    p = logits.double().softmax(0)
    return (-(p * p.log()).sum(0) / math.log(len(logits))).float()


def binary_entropy(logits: Tensor) -> Tensor:
    p = logits.double().sigmoid()
    return (-(p * p.log2() + (1 - p) * (1 - p).log2())).amax(0).float()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Argmax, LOGITS.argmax(0).to(torch.uint8)),
        (WideArgmax, LOGITS.argmax(0).to(torch.int32)),
        (lambda: Probability(3), LOGITS.softmax(0)[3]),
        (Entropy, entropy(LOGITS)),
        (lambda: SigmoidProbability(2), LOGITS.sigmoid()[2]),
        (SigmoidEntropy, binary_entropy(LOGITS)),
        (Values, LOGITS),
        (lambda: Values(lambda block: 2 * block + 1), 2 * LOGITS + 1),
    ],
)
def test_both_ways_are_the_formula(make: Callable[[], Reducer], expected: Tensor) -> None:
    for found in (make().reduce(LOGITS.clone()), one_by_one(make(), LOGITS)):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_first_of_equals_wins() -> None:
    logits = torch.tensor([1.0, 2.0, 2.0])[:, None]
    assert int(Argmax().reduce(logits)) == int(one_by_one(Argmax(), logits)) == 1


def test_more_than_256_classes() -> None:
    logits = torch.zeros(300, 2)
    logits[299, 0] = logits[256, 1] = 1
    assert WideArgmax().reduce(logits).tolist() == one_by_one(WideArgmax(), logits).tolist() == [299, 256]
    assert WideArgmax.dtype is np.uint16


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([1e4, -1e4, 1e4])[:, None]
    assert float(one_by_one(Entropy(), logits)) == pytest.approx(math.log(2) / math.log(3), abs=1e-6)
    assert float(one_by_one(Probability(0), logits)) == pytest.approx(0.5)


def test_regions_are_painted_in_the_order_given() -> None:
    logits = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    assert Regions((1, 2, 4)).reduce(logits).tolist() == [2, 4, 2]
    assert Regions((1, 2, 4), order=(1, 0, 2)).reduce(logits).tolist() == [1, 4, 2]


def test_regions_are_checked() -> None:
    with pytest.raises(ValueError, match="once"):
        Regions((1, 2), order=(0, 0))
    with pytest.raises(ValueError, match="lie in 0"):
        Regions((1, 256))
    with pytest.raises(ValueError, match="more channels"):
        Regions((1,)).reduce(torch.zeros(2, 3))


def test_maps_have_names() -> None:
    assert isinstance(map_reducer("entropy", "softmax")(), Entropy)
    assert isinstance(map_reducer("entropy", "sigmoid")(), SigmoidEntropy)
    assert map_reducer("probability:4", "softmax")().index == 4
    for name in ("probability", "probability:x", "probability:-1", "Entropy", ""):
        with pytest.raises(ValueError, match="there is no map"):
            map_reducer(name, "softmax")
