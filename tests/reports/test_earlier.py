"""The structures of an earlier study are laid over the present one, or a sentence says why they are not."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medvit.reports import Prior, Stated, StudyReport, load_language, make_report, write_html, write_pdf
from medvit.reports.changes import Changes
from medvit.reports.content import Content
from medvit.reports.earlier import NotAligned, align
from medvit.studies import write_label_map
from medvit.studies.grids import resample_onto
from medvit.studies.study import Grid, LabelMap
from tests.reports.phantom import BRAIN, head

IMAGE, LABELS, GRID = head((54, 64, 54), 3.4)
TURN = np.eye(4)
TURN[:3, :3] = Rotation.from_euler("xyz", (8, -5, 10), degrees=True).as_matrix()
TURN[:3, 3] = (12, -7, 5)


def turned(labels: np.ndarray = LABELS) -> LabelMap:
    """The head as it lay in an earlier scan: turned, moved, and in other voxels."""
    affine = np.diag([-3.0, 3.0, 3.2, 1.0])
    affine[:3, 3] = (100, -110, -85)
    grid = Grid((66, 72, 58), affine)
    return LabelMap(resample_onto(grid, labels, Grid(GRID.shape, TURN @ GRID.affine), nearest=True), grid)


def test_rotation_and_shift_are_recovered() -> None:
    found = align(turned(), LabelMap(LABELS, GRID))
    angle = np.degrees(Rotation.from_matrix(TURN[:3, :3]).magnitude())
    assert found.angle == pytest.approx(angle, abs=0.5)
    assert found.agreement > 0.9
    overlap = np.count_nonzero((found.labels == LABELS) & (LABELS > 0)) / np.count_nonzero(LABELS)
    assert overlap > 0.9  # half a voxel off would cost more at so many borders
    middle = TURN @ np.append(np.mean(np.argwhere(LABELS) @ GRID.affine[:3, :3].T + GRID.affine[:3, 3], 0), 1)
    assert found.shift == pytest.approx(
        np.linalg.norm(middle[:3] - np.linalg.inv(TURN)[:3] @ middle), abs=1.7
    )


def test_what_does_not_agree_is_refused() -> None:
    scattered = np.zeros_like(LABELS)
    for value in range(1, int(LABELS.max()) + 1):  # the same structures elsewhere
        x, y, z = np.unravel_index(value * 7919 % 40**3, (40, 40, 40))
        scattered[x : x + 8, y : y + 8, z : z + 8] = value
    with pytest.raises(NotAligned, match="agree in only") as refused:
        align(LabelMap(scattered, GRID), LabelMap(LABELS, GRID))
    assert refused.value.reason == "not_drawn_apart"
    with pytest.raises(NotAligned, match="share no structure"):
        align(LabelMap(np.zeros_like(LABELS), GRID), LabelMap(LABELS, GRID))


def report_with(label_map: Path | None) -> StudyReport:
    prior = Prior("old", datetime.date(2020, 1, 2), {"left hippocampus": 4.0}, label_map=label_map)
    stated = Stated(date=datetime.date(2024, 3, 5))
    return make_report("now", LABELS, GRID, BRAIN, IMAGE, stated=stated, priors=(prior,))


def test_the_report_draws_the_earlier_outlines(tmp_path: Path) -> None:
    smaller = np.where(BRAIN.by_name["left lateral ventricle"].value == LABELS, 0, LABELS)
    earlier = turned(smaller)
    path = write_label_map(tmp_path / "labels.nii.gz", earlier.array, earlier.grid, BRAIN.file_names)
    report = report_with(path)
    assert report.earlier is not None and report.not_drawn == ""
    figures = Content(report, load_language("en")).change_figures()
    assert len(figures) == 3 and all("2020" in figure.caption for figure in figures)
    # The ventricle that was not there makes the sections through it differ most.
    z = 54 - figures[0].picture.index
    assert (LABELS[:, :, z] == BRAIN.by_name["left lateral ventricle"].value).any()
    white = (figures[0].picture.pixels == 255).all(axis=2)
    assert 200 < white.sum() < white.size / 4
    (note,) = (n for n in Changes(report, load_language("de")).notes() if "gedreht" in n)
    assert f"um {f'{report.earlier.angle:.1f}'.replace('.', ',')}° gedreht" in note
    page = write_html(report, tmp_path / "report.html").read_text("utf-8")
    assert page.count("outlined in white") == 2 * 3  # caption and alternative text
    assert write_pdf(report, tmp_path / "report.pdf").stat().st_size > 10_000
    only = report.only([BRAIN.by_name["left hippocampus"]])
    assert only.earlier is not None
    assert set(np.unique(only.earlier.labels)) == {0, BRAIN.by_name["left hippocampus"].value}


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_why_nothing_is_drawn_is_said(language: str, tmp_path: Path) -> None:
    words = load_language(language)
    report = report_with(None)
    assert report.not_drawn == "not_drawn_missing" and Content(report, words).change_figures() == []
    for reason in ("not_drawn_missing", "not_drawn_other", "not_drawn_apart"):
        (*_, note) = Changes(replace(report, not_drawn=reason), words).notes()
        assert note == words[reason].format(date=words.date(datetime.date(2020, 1, 2)))
    damaged = tmp_path / "labels.nii.gz"
    damaged.write_bytes(b"not an image")
    assert report_with(damaged).not_drawn == "not_drawn_missing"
