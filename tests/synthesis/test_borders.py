"""Borders move between structures of different weights, as far as the weights say, and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medvit.studies.labels import load_label_table
from medvit.synthesis import BorderWeights

TABLE = load_label_table("brain")
WHITE, CAUDATE, PUTAMEN, VENTRICLE = (
    TABLE.by_name[name].value
    for name in (
        "left cerebral white matter",
        "left caudate nucleus",
        "left putamen",
        "left lateral ventricle",
    )
)


def ball(radius: float, inside: int, outside: int) -> Tensor:
    """(1, 40, 40, 40) with a ball whose centre lies between voxels."""
    axis = torch.arange(40) - 19.3
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.where(x**2 + y**2 + z**2 < radius**2, inside, outside).to(torch.uint8)[None]


def share(target: Tensor, value: int) -> float:
    return float((target == value).sum())


@pytest.mark.parametrize(("weight", "shift"), [(0.5, -0.35), (0.2, -0.75), (2.0, 0.35)])
def test_a_structure_recedes_or_advances_by_what_its_weight_says(weight: float, shift: float) -> None:
    target = ball(12, CAUDATE, WHITE)
    redrawn = BorderWeights(TABLE, {"caudate nucleus": weight})(target)
    # A flat border stands where the Gaussian's integral is 1 / (1 + weight): 0.43 and 0.97 deviations of 0.8.
    radius = (3 * share(redrawn, CAUDATE) / (4 * math.pi)) ** (1 / 3)
    assert radius - 12 == pytest.approx(shift, abs=0.15)
    assert set(redrawn.unique().tolist()) == {CAUDATE, WHITE}


def test_what_a_structure_loses_goes_to_the_neighbour_at_that_place() -> None:
    target = ball(12, CAUDATE, WHITE)
    target[:, :20][target[:, :20] == WHITE] = VENTRICLE
    redrawn = BorderWeights(TABLE, {"caudate nucleus": 0.3})(target)
    lost = (target == CAUDATE) & (redrawn != CAUDATE)
    assert set(redrawn[:, :18][lost[:, :18]].tolist()) == {VENTRICLE}
    assert set(redrawn[:, 22:][lost[:, 22:]].tolist()) == {WHITE}


def test_borders_of_equal_weights_stay() -> None:
    flat = torch.full((1, 12, 12, 12), CAUDATE, dtype=torch.uint8)
    flat[:, 6:] = PUTAMEN
    both = BorderWeights(TABLE, {"caudate nucleus": 0.4, "putamen": 0.4})(flat)
    others = BorderWeights(TABLE, {"hippocampus": 0.4})(flat)
    assert torch.equal(both, flat)
    assert torch.equal(others, flat)


def test_the_target_itself_is_left_alone_and_a_border_moves_by_a_voxel_at_most() -> None:
    target = ball(6, CAUDATE, WHITE)
    before = target.clone()
    redrawn = BorderWeights(TABLE, {"caudate nucleus": 1e-9})(target)
    assert torch.equal(target, before)
    assert share(redrawn & ball(4.2, 255, 0), CAUDATE) == share(ball(4.2, CAUDATE, 0), CAUDATE)


def test_batches_are_independent() -> None:
    weights = BorderWeights(TABLE, {"caudate nucleus": 0.5})
    pair = torch.cat([ball(9, CAUDATE, WHITE), ball(12, CAUDATE, VENTRICLE)])
    assert torch.equal(weights(pair), torch.cat([weights(pair[:1]), weights(pair[1:])]))


@pytest.mark.parametrize(
    ("weights", "said"),
    [({"caudat": 0.5}, "no structures of table brain: caudat"), ({"putamen": 0}, "above 0")],
)
def test_weights_that_cannot_be_are_refused(weights: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BorderWeights(TABLE, weights)
