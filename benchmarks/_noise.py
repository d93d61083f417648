"""Noise in even patches: its size, its grid pattern and its power in bands of spatial frequency."""

from __future__ import annotations

import numpy as np

from medvit.metrics import grid_pattern, noise_power

EDGE = 16
HEADING = (
    "| | noise | mean | pattern of 8 | power, 0 to 1/8 | to 1/4 | to 3/8 | to 1/2 cycles per pixel |\n"
    "|---|---|---|---|---|---|---|---|"
)


def patches(volume: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(patches, EDGE, EDGE) of the slices that lie wholly inside, from a grid of this edge."""
    width, height = (n // EDGE * EDGE for n in volume.shape[:2])
    cut = [
        image[:width, :height].reshape(width // EDGE, EDGE, height // EDGE, EDGE, -1)
        for image in (volume, inside)
    ]
    values, counted = (part.transpose(0, 2, 4, 1, 3).reshape(-1, EDGE, EDGE) for part in cut)
    return values[counted.all(axis=(1, 2))]


def described(name: str, noise: np.ndarray) -> str:
    """A row: noise, mean, pattern, and power in four bands of frequency."""
    power = np.nanmean(noise_power(noise, 8)[1].reshape(4, 2), axis=1)
    bands = " | ".join(f"{p:.4g}" for p in power)
    return f"| {name} | {noise.std():.4g} | {noise.mean():+.4g} | {grid_pattern(noise):.3g} | {bands} |"
