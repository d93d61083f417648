"""The colours of the brain table can be told apart, also by readers with a red-green deficiency."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reports.phantom import BRAIN

# Machado et al., IEEE TVCG 15:1291, 2009: full severity, on linear RGB.
DEUTERANOPIA = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.011820, 0.042940, 0.968881),
)
PROTANOPIA = (
    (0.152286, 1.052583, -0.204868),
    (0.114503, 0.786281, 0.099216),
    (-0.003882, -0.048116, 1.051998),
)


def to_lab(colors: np.ndarray, vision: np.ndarray) -> np.ndarray:
    """sRGB 0..255 as CIELab under D65, seen through a linear-RGB matrix."""
    c = colors / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ vision.T
    to_xyz = np.array(((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)))
    xyz = np.clip(linear, 0, 1) @ to_xyz.T / (0.9505, 1.0, 1.0888)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize(
    ("vision", "least"), [(np.eye(3), 35), (np.array(DEUTERANOPIA), 20), (np.array(PROTANOPIA), 18)]
)
def test_no_two_structures_look_alike(vision: np.ndarray, least: float) -> None:
    colors = np.array(sorted({s.color for s in BRAIN}), float)
    lab = to_lab(colors, vision)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e9 * np.eye(len(lab))
    assert len(colors) == len({s.unsided_name for s in BRAIN})
    assert distance.min() > least


def test_a_pair_shares_its_colour() -> None:
    assert all(left.color == right.color for left, right in BRAIN.pairs())
