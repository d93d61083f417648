"""The surface rendering: sides, sizes, and what stays hidden."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.reports.display import prepare
from medvit.reports.surface import render_surface
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN, LEFT, centre_of, head, ras_affine


def extents(spacing: tuple[float, float, float], max_voxels: float = 3e6) -> list[tuple[int, int]]:
    """Height and width in pixels of a block of 40 x 40 x 80 mm, from the left, the front and above."""
    shape = tuple(round(120 / s) for s in spacing)
    labels = np.zeros(shape, np.uint8)
    labels[
        tuple(slice(round(40 / s), round((40 + mm) / s)) for s, mm in zip(spacing, (40, 40, 80), strict=True))
    ] = LEFT.value
    display = prepare(labels, Grid(shape, ras_affine(spacing, shape)), BRAIN, None)
    picture = render_surface(display, max_voxels=max_voxels)
    assert picture is not None and picture.pixels.shape == (320, 960, 3)
    found = []
    for view in np.split(picture.pixels, 3, axis=1):
        # The colour is never grey, unlike the letters at the sides and the white around.
        rows, columns = np.nonzero(np.ptp(view.astype(int), axis=2) > 25)
        found.append((int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1))
    return found


@pytest.mark.parametrize("max_voxels", [3e6, 4e3])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 2.0, 4.0)])
def test_a_block_is_drawn_by_its_millimetres(spacing: tuple[float, float, float], max_voxels: float) -> None:
    left, front, above = extents(spacing, max_voxels)
    for tall, wide in (left, front):
        assert tall / wide == pytest.approx(2, rel=0.13)
    assert above[0] / above[1] == pytest.approx(1, rel=0.13)


def test_nothing_solid_has_no_surface() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    grid = Grid(labels.shape, ras_affine(2.0, labels.shape))
    assert render_surface(prepare(labels, grid, BRAIN, None)) is None
    labels[5:15, 5:15, 5:15] = BRAIN.by_name["cerebrospinal fluid"].value
    assert render_surface(prepare(labels, grid, BRAIN, None)) is None


def test_the_surface_shows_left_where_each_view_has_it() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[4:16, 12:28, 12:28] = LEFT.value
    labels[24:36, 12:28, 12:28] = BRAIN.by_name["right amygdala"].value
    picture = render_surface(prepare(labels, Grid(labels.shape, ras_affine(2.0, labels.shape)), BRAIN, None))
    assert picture is not None
    assert picture.kind == "surface"
    left, front, above = np.split(picture.pixels[:320], 3, axis=1)
    assert centre_of(front, LEFT.color)[1] > 0.55  # face to face: the patient's left is on the right
    assert centre_of(above, LEFT.color)[1] < 0.45  # from above with the face upwards: on the left
    amygdala = BRAIN.by_name["right amygdala"].color
    tint = np.array(amygdala) / np.linalg.norm(amygdala)
    lengths = np.linalg.norm(left, axis=2)
    assert (
        not ((left @ tint > 0.999 * lengths) & (lengths > 30) & (lengths < 180)).sum() > 200
    )  # hidden behind


def test_fluid_does_not_hide_the_brain() -> None:
    _, labels, grid = head()
    picture = render_surface(prepare(labels, grid, BRAIN, None))
    assert picture is not None
    assert (picture.kind, picture.pixels.shape[:2]) == ("surfaces", (640, 960))
    assert BRAIN.by_name["cerebrospinal fluid"].value not in picture.values
