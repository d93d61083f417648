"""CSwin in Swin UNETR's frame: any size, stripes along each axis, thick slices, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from medvit.networks import CSwinUNETR

SMALL = {"feature_size": 6, "depths": (1, 1, 1, 1), "num_heads": (3, 3, 6, 6), "stripe_widths": (2, 2, 2, 2)}


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((64, 32, 32), {}),
        ((40, 34, 33), {}),
        (
            (34, 40, 9),
            {
                "thick_slices": True,
                "feature_size": 8,
                "num_heads": (2, 4, 4, 8),
                "strides": ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1)),
            },
        ),
    ],
)
def test_volumes_of_any_size_and_every_parameter_learns(size: tuple[int, int, int], options: dict) -> None:
    torch.manual_seed(0)
    network = CSwinUNETR(3, 2, **{**SMALL, **options})  # type: ignore[arg-type]
    logits = network(torch.rand(2, 3, *size))
    assert logits.shape == (2, 2, *size)
    (logits.square().sum() + logits[:, 0].sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_depth_is_not_halved_where_a_stride_is_one() -> None:
    network = CSwinUNETR(
        1, 2, strides=((2, 2, 1),) * 5, **{**SMALL, "thick_slices": True, "num_heads": (2, 2, 4, 4)}
    )  # type: ignore[arg-type]
    seen: list[torch.Size] = []
    network.merges[3].register_forward_hook(lambda _, __, y: seen.append(y.shape))
    network(torch.rand(1, 1, 32, 32, 5))
    assert seen == [torch.Size([1, 1, 1, 5, 96])]


def test_heads_that_the_stripes_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="3 groups"):
        CSwinUNETR(1, 2, num_heads=(2, 4, 8, 16))
    with pytest.raises(ValueError, match="five strides"):
        CSwinUNETR(1, 2, strides=((2, 2, 2),) * 4)
