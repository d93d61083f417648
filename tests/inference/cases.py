"""Small studies in awkward grids, and a network with smooth, close-run logits."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from medvit.studies.study import Grid


def rotation(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    a, b = [i for i in range(3) if i != axis]
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def affine(directions: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = directions @ np.diag(spacing)
    out[:3, 3] = (-31.0, 12.5, 7.25)
    return out


OBLIQUE = rotation(17, 0) @ rotation(-9, 2)
GRIDS = {
    "axial": Grid((40, 44, 36), affine(np.eye(3), (1.0, 1.0, 1.0))),
    "anisotropic": Grid((44, 41, 17), affine(np.eye(3), (0.8, 0.9, 2.7))),
    "left_handed": Grid((44, 38, 30), affine(np.diag([-1, 1, 1]), (0.9, 1.2, 1.4))),
    "permuted": Grid((19, 45, 39), affine(np.eye(3)[[2, 0, 1]] @ np.diag([1, -1, 1]), (2.5, 0.9, 1.1))),
    "oblique": Grid((42, 40, 20), affine(OBLIQUE, (0.9, 1.0, 2.2))),
    "oblique_left_handed_permuted": Grid(
        (18, 42, 40), affine(OBLIQUE @ np.eye(3)[[1, 2, 0]], (2.4, 1.1, 0.9))
    ),
}


def study(grid: Grid, seed: int = 0) -> MetaTensor:
    """(1, X, Y, Z): smooth tissue in the middle, exact zeros around it."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.standard_normal(grid.shape), 2.0 / np.array(grid.spacing))
    distance = sum(
        ((np.arange(n) / (n - 1) - 0.5) ** 2).reshape([-1 if a == b else 1 for b in range(3)])
        for a, n in enumerate(grid.shape)
    )
    body = distance < 0.18
    values = np.where(body, 1.5 + smooth / smooth.std(), 0).astype(np.float32)
    meta = {"original_affine": grid.affine.copy(), "spatial_shape": np.array(grid.shape)}
    return MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(grid.affine), meta=meta)


class Thresholds(nn.Module):
    """Logits of bands of intensity after a smoothing: background where the image is 0."""

    def __init__(self, classes: int = 5, in_channels: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.smooth = nn.Conv3d(in_channels, classes, 3, padding=1)
        noise = torch.rand(self.smooth.weight.shape, generator=generator)
        with torch.no_grad():
            centres = torch.linspace(0, 3, classes)
            self.smooth.weight.copy_(
                noise * centres.reshape(-1, 1, 1, 1, 1) / noise.sum((1, 2, 3, 4), keepdim=True)
            )
            self.smooth.bias.copy_(-(centres**2) / 2)

    def forward(self, windows: Tensor) -> Tensor:
        return 4 * self.smooth(windows)
