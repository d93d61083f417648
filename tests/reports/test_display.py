"""The volume for display: how it is framed, turned, and windowed to grey levels."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.reports.display import choose_window, prepare, to_grey
from medvit.studies.labels import load_label_table
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN, LEFT, head


def test_what_is_labelled_is_framed_with_22_mm() -> None:
    labels = np.zeros((60, 80, 30), np.uint8)
    labels[20, 40, 15] = 1
    # Axes that already run right to left, front to back, head to feet are not turned.
    grid = Grid(labels.shape, np.diag([-2.0, -1.0, -4.0, 1.0]))
    volume = np.arange(labels.size, dtype=np.float32).reshape(labels.shape)
    display = prepare(labels, grid, BRAIN, volume)
    assert display.first == (20 - 11, 40 - 22, 15 - 6)
    assert display.labels.shape == display.grey.shape == (23, 45, 13)
    assert display.labels[11, 22, 6] == 1 and display.labels.sum() == 1
    assert display.spacing == (2.0, 1.0, 4.0) and display.tilt == pytest.approx(0)
    assert np.array_equal(display.cut(display.labels, "axial", 6), display.labels[:, :, 6].T)
    assert np.array_equal(display.cut(display.labels, "coronal", 22), display.labels[:, 22, :].T)
    assert np.array_equal(display.cut(display.labels, "sagittal", 11), display.labels[11].T)
    sizes = [display.pixel_size(plane) for plane in ("axial", "coronal", "sagittal")]
    assert sizes == [(1.0, 2.0), (4.0, 2.0), (4.0, 1.0)]


def test_a_volume_of_other_axes_is_turned() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[3, 4, 5] = 1
    # Axis 0 runs to the front, axis 1 to the head, axis 2 to the right.
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = 3, 2, 1, 1
    display = prepare(labels, Grid(labels.shape, affine), BRAIN, None)
    assert display.labels.shape == (6, 4, 5) and display.spacing == (1.0, 3.0, 2.0)
    # Its last voxel lies at the right, the front and the head: the first of the display.
    assert display.labels[0, 0, 0] == 1
    assert display.window == (0.0, 1.0) and not display.grey.any()


def test_windows_by_hand() -> None:
    values = np.arange(1000, dtype=np.float32)
    nothing = np.zeros(1000, np.uint8)
    # 2 % of 999 is 19.98, 97 % is 969.03, and a tenth of the difference is to spare.
    assert choose_window(values, nothing, BRAIN, "MR") == pytest.approx((19.98, 969.03 + 94.905))
    labelled = nothing.copy()
    labelled[800:] = 1  # 99.5 % of 800 to 999 is 998.005
    assert choose_window(values, labelled, BRAIN, "MR") == pytest.approx((19.98, 998.005 + 97.8025))
    labelled[899:] = 0  # 99 voxels are too few, and 80 to 98.9 % of what is shown would be darker anyway
    labelled[:801] = 0
    assert choose_window(values, labelled, BRAIN, "MR") == pytest.approx((19.98, 969.03 + 94.905))
    assert choose_window(values, nothing, BRAIN, "PT")[0] == 0.0
    assert choose_window(values, nothing, load_label_table("hippocampus"), "CT") == (-160.0, 240.0)
    assert choose_window(np.full(10, 5.0), nothing[:10], BRAIN, "MR") == (5.0, 6.0)
    assert choose_window(np.full(10, np.nan), nothing[:10], BRAIN, "MR") == (0.0, 1.0)


def test_grey_levels_by_hand() -> None:
    values = np.array([-1, 0, 0.5, 1, 2, np.nan, np.inf, -np.inf])
    assert to_grey(values, (0.0, 1.0)).tolist() == [0, 0, 127, 255, 255, 0, 255, 0]
    assert to_grey(np.array([-160.0, 40.0, 240.0]), (-160.0, 240.0)).tolist() == [0, 127, 255]


@pytest.mark.parametrize(("modality", "low", "high"), [("CT", 0, 80), ("MR", 10, 130)])
def test_windows_suit_the_modality(modality: str, low: float, high: float) -> None:
    _, labels, grid = head()
    image = np.where(labels > 0, 100.0, 10.0).astype(np.float32)
    image[28:32, 30:34, 30:34] = 4000.0  # a clip or a vessel must not darken the rest
    window = prepare(labels, grid, BRAIN, image, modality).window
    assert window == (pytest.approx(low, abs=1), pytest.approx(high, abs=25))


def test_pet_is_dark_on_white() -> None:
    _, labels, grid = head()
    hot = np.where(labels == LEFT.value, 10.0, 0.0).astype(np.float32)
    grey = prepare(labels, grid, BRAIN, hot, "PT").grey
    assert grey.max() == 255 and np.median(grey) == 255 and grey.min() < 60
