"""Images are mirrored to the multiple that windows need, and cropped back."""

from __future__ import annotations

import pytest
import torch

from medvit.errors import MedvitError
from medvit.networks.layers.padding import crop_to, pad_to_multiple


def test_the_lower_and_right_borders_are_mirrored_without_the_edge_itself() -> None:
    image = torch.arange(15.0).reshape(1, 1, 3, 5)
    padded = pad_to_multiple(image, 4)
    assert padded[0, 0].tolist() == [
        [0, 1, 2, 3, 4, 3, 2, 1],
        [5, 6, 7, 8, 9, 8, 7, 6],
        [10, 11, 12, 13, 14, 13, 12, 11],
        [5, 6, 7, 8, 9, 8, 7, 6],
    ]
    assert torch.equal(crop_to(padded, 3, 5), image)


def test_an_image_that_fits_is_not_copied() -> None:
    image = torch.zeros(1, 2, 8, 4)
    assert pad_to_multiple(image, 4) is image


@pytest.mark.parametrize(("height", "width"), [(4, 3), (3, 4), (1, 8)])
def test_a_side_can_be_mirrored_only_by_less_than_itself(height: int, width: int) -> None:
    with pytest.raises(MedvitError, match=f"{height} x {width} pixels is too small"):
        pad_to_multiple(torch.zeros(1, 1, height, width), 8)
