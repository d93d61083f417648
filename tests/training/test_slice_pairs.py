"""Degradations by their words, and the noise that they leave."""

from __future__ import annotations

import math

import pytest
import torch

from medvit.errors import MedvitError
from medvit.training.slice_pairs import Degradation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Degradation()),
        ("rician:0.01:0.1", Degradation("rician", 0.01, 0.1)),
        ("gaussian:2", Degradation("gaussian", 2.0, 2.0)),
        ("low-dose:0.25:1", Degradation("low-dose", 0.25, 1.0)),
    ],
)
def test_words_name_a_kind_and_its_levels(text: str, expected: Degradation) -> None:
    assert Degradation.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["rician", "blur:0.1", "rician:", "rician:0", "rician:-1:2", "gaussian:0.2:0.1", "gaussian:1:2:3",
     "low-dose:0.5:1.5", "rician:nan", "rician:a"],
)  # fmt: skip
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(MedvitError, match=r"--degrade .*: give rician, gaussian or low-dose with a level"):
        Degradation.parse(text)


def test_noise_has_the_level_that_is_stated() -> None:
    clean, generator = torch.full((200, 200), 0.5), torch.Generator().manual_seed(0)
    noisy = Degradation("gaussian", 0.05, 0.05)(clean, 100.0, 1.0, generator)
    assert float((noisy - clean).std()) == pytest.approx(0.05, rel=0.02)
    assert float((noisy - clean).mean()) == pytest.approx(0.0, abs=1e-3)
    # In air the magnitude of Rician noise has the mean sigma * sqrt(pi / 2).
    air = Degradation("rician", 0.05, 0.05)(torch.zeros(200, 200), 100.0, 1.0, generator)
    assert float(air.mean()) == pytest.approx(0.05 * math.sqrt(math.pi / 2), rel=0.01)
    assert float(air.min()) >= 0


def test_a_range_is_drawn_by_its_logarithm() -> None:
    degrade, generator = Degradation("gaussian", 0.01, 1.0), torch.Generator().manual_seed(0)
    clean = torch.zeros(40, 40)
    levels = [float(degrade(clean, 1.0, 1.0, generator).std()) for _ in range(200)]
    assert min(levels) > 0.009 and max(levels) < 1.1
    # The median of a uniform logarithm is the geometric mean of the bounds.
    assert sorted(levels)[100] == pytest.approx(0.1, rel=0.4)
