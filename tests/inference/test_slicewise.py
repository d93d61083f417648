"""Slice-wise segmentation: TransUNet's protocol, independent of batches, any axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch import Tensor, nn

from medvit.inference.slicewise import segment_slices


class Threshold(nn.Module):
    """Class 1 where the first channel exceeds a half; notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.5))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        self.seen.append(x)
        return torch.cat([self.threshold.expand_as(x[:, :1]), x[:, :1]], 1)


def volume(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def test_each_slice_follows_the_protocol() -> None:
    image, network = volume(5, 30, 40), Threshold()
    labels = segment_slices(network, image, 24, batch_size=2)
    assert labels.shape == image.shape and labels.dtype == torch.uint8
    assert [len(batch) for batch in network.seen] == [2, 2, 1]
    for i, plane in enumerate(image):
        resized = zoom(plane, (24 / 30, 24 / 40), order=3)
        np.testing.assert_array_equal(network.seen[i // 2][i % 2, 0], resized)
        expected = zoom((resized > 0.5).astype(np.uint8), (30 / 24, 40 / 24), order=0)
        np.testing.assert_array_equal(labels[i], expected)
    assert network.training


def test_slices_of_the_networks_size_are_not_resized() -> None:
    image = volume(3, 24, 16)
    labels = segment_slices(Threshold(), torch.from_numpy(image), (24, 16))
    np.testing.assert_array_equal(labels, image > 0.5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_taken_along_the_axis(axis: int) -> None:
    image = volume(2, 6, 20, 12)
    labels = segment_slices(Threshold(), image, 16, axis=axis)
    stacked = segment_slices(Threshold(), np.moveaxis(image, axis + 1, 1), 16, batch_size=1)
    np.testing.assert_array_equal(labels, np.moveaxis(stacked.numpy(), 0, axis))


def test_refuses_what_is_no_volume() -> None:
    with pytest.raises(ValueError, match=r"axes \(X, Y, Z\)"):
        segment_slices(Threshold(), volume(4, 4))
    with pytest.raises(ValueError, match="axis must be"):
        segment_slices(Threshold(), volume(4, 4, 4), axis=3)
