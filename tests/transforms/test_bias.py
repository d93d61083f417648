"""Correction of brightness fields."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

from medvit.transforms import CorrectBiasd


def shaded_head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An even head of two tissues, the same under a field of 0.6 to 1.4, and where its tissue of 100 lies."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 28)] * 3, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    even = np.where(radius < 0.8, np.where(radius < 0.5, 150.0, 100.0), 0.0)
    even = even + np.random.default_rng(0).uniform(0, 4, even.shape)
    return even, even * (1 + 0.4 * x), (radius > 0.55) & (radius < 0.75)


def corrected(image: np.ndarray) -> np.ndarray:
    tensor = MetaTensor(torch.from_numpy(image.astype(np.float32))[None], affine=np.diag([6.0, 6, 6, 1]))
    result = CorrectBiasd("image", iterations=(20, 20))({"image": tensor})["image"]
    assert result.shape == tensor.shape and torch.equal(result.affine, tensor.affine)
    return result[0].numpy()


def spread(image: np.ndarray, where: np.ndarray) -> float:
    return float(image[where].std() / image[where].mean())


def test_a_shaded_tissue_becomes_even() -> None:
    even, shaded, tissue = shaded_head()
    assert spread(shaded, tissue) > 0.15
    assert spread(corrected(shaded), tissue) < 0.4 * spread(shaded, tissue)
    assert abs(np.median(corrected(shaded)[tissue]) / np.median(even[tissue]) - 1) < 0.1


def test_what_is_not_a_magnitude_is_left_alone() -> None:
    _, shaded, _ = shaded_head()
    hounsfield = (shaded - 1000).astype(np.float32)
    assert np.array_equal(corrected(hounsfield), hounsfield)
    flat = np.full((16, 16, 16), 5, np.float32)
    assert np.array_equal(corrected(flat), flat)
