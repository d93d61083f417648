"""What the tests of region maps look at."""

from __future__ import annotations

import numpy as np


def body(height: int = 64, width: int = 48) -> np.ndarray:
    """Air, a body, and an organ in it, in HU with noise."""
    rng = np.random.default_rng(0)
    image = np.full((1, height, width), -1000.0, np.float32)
    image[:, 8:-8, 8:-8] = 0
    image[:, 20:40, 14:30] = 400
    return image + rng.normal(0, 10, image.shape).astype(np.float32)
