"""Random numbers of a batch: their shares and ranges, and that they can be had again."""

from __future__ import annotations

import pytest
import torch

from medvit.synthesis.draw import Draw

COUNT = 4000


def draw(seed: int = 0, count: int = COUNT) -> Draw:
    return Draw(torch.Generator().manual_seed(seed), count, torch.device("cpu"))


def test_ranges_and_shares() -> None:
    numbers = draw()
    uniform = numbers.uniform(-2, 6, 3)
    assert uniform.shape == (COUNT, 3) and -2 <= uniform.min() < -1.9 < 5.9 < uniform.max() < 6
    assert uniform.mean() == pytest.approx(2, abs=5 * 8 / (12 * 3 * COUNT) ** 0.5)
    gaussian = numbers.gaussian(2)
    assert gaussian.shape == (COUNT, 2)
    assert gaussian.std() == pytest.approx(1, abs=0.06) and abs(gaussian.mean()) < 0.06
    for probability in (0.0, 0.3, 1.0):
        error = 5 * (probability * (1 - probability) / COUNT) ** 0.5
        assert numbers.chance(probability).float().mean() == pytest.approx(probability, abs=error)
        assert len(numbers.chosen(probability)) / COUNT == pytest.approx(probability, abs=error)
    picked = torch.bincount(numbers.pick((1, 0, 3)), minlength=3) / COUNT
    assert picked[1] == 0 and picked[2] == pytest.approx(0.75, abs=0.035)
    integers = numbers.integers(3)
    assert set(integers) == {0, 1, 2} and len(integers) == COUNT


def test_the_seed_determines_everything() -> None:
    def several(seed: int) -> list[torch.Tensor]:
        numbers = draw(seed, 5)
        return [
            numbers.uniform(0, 1),
            numbers.field(2, 3),
            numbers.gaussian(),
            torch.tensor(numbers.chosen(0.5)),
        ]

    first, again, other = several(1), several(1), several(2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])


def test_noise_does_not_move_the_choices() -> None:
    # How much noise a sample needs may depend on the device; its choices may not.
    quiet, noisy = draw(3, 5), draw(3, 5)
    noisy.field(100)
    assert torch.equal(quiet.uniform(0, 1), noisy.uniform(0, 1))


def test_numbers_of_samples_broadcast_over_volumes() -> None:
    numbers = draw(count=2)
    assert numbers.put_each(torch.tensor([1.0, 2.0])).mul(torch.ones(2, 3, 4, 5))[1].unique().tolist() == [2]
