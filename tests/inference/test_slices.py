"""Slices by themselves: every slice is seen once, in batches, along any axis; TransUNet's protocol."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Orientationd
from scipy.ndimage import zoom
from torch import Tensor, nn

from medvit.inference import SliceInferer, SliceRestorer, segment_slices
from medvit.transforms import ScaleToUnitd
from tests.inference.cases import GRIDS, study


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 4, 5, padding=2)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slices", [1, 8, 100])
def test_equals_slice_by_slice(axis: int, slices: int) -> None:
    image = study(GRIDS["anisotropic"])[None]
    labels = SliceInferer((24, 16), 0.25, slices, slice_axis=axis)(image, network())[0, 0].movedim(axis, 0)
    with torch.no_grad():
        for found, plane in zip(labels, image[0, 0].as_tensor().movedim(axis, 0), strict=True):
            logits = SlidingWindowInferer((24, 16), 1, 0.25, mode="gaussian")(plane[None, None], network())
            assert (found == logits[0].argmax(0)).float().mean() > 0.999


def test_goes_to_the_grid_of_the_study() -> None:
    grid = GRIDS["oblique"]
    inferer = SliceInferer((None, None), slice_axis=2)
    assert inferer.segment(study(grid), network(), grid).shape == grid.shape
    assert inferer.report.windows == -(-grid.shape[2] // 8)


def test_refuses_windows_of_three_axes() -> None:
    with pytest.raises(ValueError, match="two values"):
        SliceInferer((24, 24, 24))


@pytest.mark.parametrize("name", ["permuted", "oblique_left_handed_permuted"])
def test_restores_in_the_grid_and_the_intensities_of_the_study(name: str) -> None:
    class Doubled(nn.Module):
        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            assert slices.ndim == 4 and slices.abs().max() <= 1
            return 2 * slices

    source = study(GRIDS[name])
    sides = (("L", "R"), ("P", "A"), ("I", "S"))
    prepare = Compose([Orientationd("image", "RAS", labels=sides), ScaleToUnitd("image", (-50, 50), 50.0)])
    image = prepare({"image": source})["image"]
    restored = SliceRestorer((24, 16), 0.25, 4, grid="source")(image[None], Doubled())[0]
    torch.testing.assert_close(restored.as_tensor(), 2 * source.as_tensor(), atol=1e-3, rtol=1e-4)
    assert np.allclose(restored.affine, GRIDS[name].affine)


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


def test_refuses_what_is_not_a_volume() -> None:
    with pytest.raises(ValueError, match=r"axes \(X, Y, Z\)"):
        segment_slices(Threshold(), volume(4, 4))
    with pytest.raises(ValueError, match="axis must be"):
        segment_slices(Threshold(), volume(4, 4, 4), axis=3)
