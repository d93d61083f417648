"""Pictures: which side is which, square pixels, and the slices chosen."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from medvit.reports.display import PLANES, Display, prepare
from medvit.reports.orientation import face_names, obliquity
from medvit.reports.pictures import WELL_SHOWN, choose_slices, draw_slice, montage, overlays, section_areas
from medvit.reports.surface import render_surface
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN, LEFT, centre_of, head, ras_affine


def turned(codes: str, degrees: float = 0.0) -> tuple[np.ndarray, Grid]:
    """A body of cortex whose left-front-top eighth is another label, stored along `codes` and tilted."""
    shape = (40, 40, 40)
    labels = np.zeros(shape, np.uint8)
    labels[4:36, 4:36, 4:36] = 3
    labels[6:18, 22:34, 22:34] = LEFT.value  # RAS index order: left, front, top
    turn = ornt_transform(axcodes2ornt(("R", "A", "S")), axcodes2ornt(tuple(codes)))
    stored = np.moveaxis(labels, range(3), turn[:, 0].astype(int))
    stored = stored[tuple(slice(None, None, int(f)) for f in turn[np.argsort(turn[:, 0]), 1])]
    affine = ras_affine(2.0, shape) @ inv_ornt_aff(turn, shape)
    angle = np.radians(degrees)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = ((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle)))
    return np.ascontiguousarray(stored), Grid(shape, tilt @ affine)


@pytest.mark.parametrize(("codes", "degrees"), [("RAS", 0), ("LPS", 0), ("LIA", 0), ("PSR", 0), ("RAS", 20)])
def test_the_patients_left_is_on_the_right_of_the_picture(codes: str, degrees: float) -> None:
    labels, grid = turned(codes, degrees)
    display = prepare(labels, grid, BRAIN, None)
    expected = {
        "axial": (0, 1),
        "coronal": (0, 1),
        "sagittal": (0, 0),
    }  # upper half; right half, or front = left
    for plane in PLANES:
        areas = section_areas(display.labels, plane)[LEFT.value - 1]
        picture = draw_slice(display, plane, int(areas.argmax()), 200)
        row, column = centre_of(picture, LEFT.color)
        assert (round(row), round(column)) == expected[plane], plane
    assert display.tilt == pytest.approx(degrees, abs=0.01)


def test_faces_follow_the_orientation() -> None:
    assert face_names(turned("LIA")[1].affine) == [
        ("right", "left"),
        ("superior", "inferior"),
        ("posterior", "anterior"),
    ]
    assert obliquity(turned("RAS", 12)[1].affine) == pytest.approx(12)


def test_thick_slices_are_drawn_with_square_pixels() -> None:
    shape = (60, 60, 10)
    labels = np.ones(shape, np.uint8)
    display = prepare(labels, Grid(shape, ras_affine((1.0, 1.0, 6.0), shape)), BRAIN, None)
    for plane in PLANES:
        height, width = draw_slice(display, plane, 3, 240).shape[:2]
        assert (height, width) == (240, 240)


def test_every_structure_is_shown_near_its_largest_section() -> None:
    _, labels, grid = head()
    display = prepare(labels, grid, BRAIN, None)
    for plane in PLANES:
        areas = section_areas(display.labels, plane)
        chosen = choose_slices(display.labels, plane, most=30)
        assert len(chosen) <= 12
        for index, values in chosen:
            for value in values:
                assert areas[value - 1, index] >= WELL_SHOWN * areas[value - 1].max()
        assert {v for _, values in chosen for v in values} == set(range(1, len(BRAIN) + 1))


def test_captions_count_slices_of_the_whole_scan() -> None:
    labels, grid = turned("RAS")
    display = prepare(labels, grid, BRAIN, None)
    (picture,) = (p for p in overlays(display) if p.kind == "axial" and LEFT.value in p.values)
    shown = labels[:, :, 40 - picture.index]  # counted from the head, which is the last index of RAS
    assert np.count_nonzero(shown == LEFT.value) == 12 * 12


def test_a_montage_runs_from_head_to_feet() -> None:
    labels, grid = turned("RAS")
    picture = montage(prepare(labels, grid, BRAIN, None), columns=4, rows=2, height=100)
    assert picture is not None and picture.pixels.shape[0] == 200
    assert centre_of(picture.pixels, LEFT.color)[0] < 0.5


def test_a_single_slice_has_no_montage_and_no_surface() -> None:
    display = Display(
        np.zeros((20, 20, 1), np.uint8),
        np.ones((20, 20, 1), np.uint8),
        (1.0, 1.0, 1.0),
        (0.0, 1.0),
        0.0,
        BRAIN,
    )
    assert montage(display) is None
    assert render_surface(display) is None
    assert [p.kind for p in overlays(display)] == ["axial"]
