"""Pairs of masks: a lobed blob and one that is a little moved and deformed."""

from __future__ import annotations

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2


def lobed(
    shape: tuple[int, int, int],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    lobes: float,
    phase: float,
) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    x, y, z = ((a - c) / r for a, c, r in zip(axes, centre, radii, strict=True))
    wave = np.sin(6 * x + phase) * np.sin(5 * y) * np.sin(4 * z + phase)
    return np.sqrt(x * x + y * y + z * z) < 1 + lobes * wave


def lobed_pair(shape: tuple[int, int, int] = (44, 40, 30)) -> Pair:
    x, y, z = (n / 2 for n in shape)
    radii = (0.3 * shape[0], 0.3 * shape[1], 0.3 * shape[2])
    prediction = lobed(shape, (x + 1.5, y - 1, z + 0.5), radii, 0.25, 0.3)
    return prediction, lobed(shape, (x, y, z), radii, 0.15, 0.0)


def touching_the_border() -> Pair:
    prediction, reference = (np.zeros((20, 18, 16), bool) for _ in range(2))
    prediction[:9, 3:12, :5] = True
    reference[:7, :12, :6] = True
    return prediction, reference


def with_an_outlier() -> Pair:
    prediction, reference = lobed_pair()
    prediction = prediction.copy()
    prediction[0, 0, 0] = True
    return prediction, reference


def scattered() -> Pair:
    random = np.random.default_rng(3)
    return random.random((20, 24, 18)) > 0.93, random.random((20, 24, 18)) > 0.95


PAIRS = {f.__name__: f for f in (lobed_pair, touching_the_border, with_an_outlier, scattered)}
