"""Pictures of a restoration show what was there, what is there, and what was taken out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.reports import StudyReport, make_restoration_report, to_json, write_html, write_pdf
from medvit.reports.image_quality import foreground
from medvit.studies.study import Grid
from tests.reports.phantom import ras_affine


def body(depth: int = 24) -> tuple[np.ndarray, Grid]:
    """A disc of water in air, in HU."""
    axis = np.arange(64) - 31.5
    disc = np.where(np.hypot(axis[:, None], axis) < 24, 40.0, -1000.0).astype(np.float32)
    return np.repeat(disc[:, :, None], depth, axis=2), Grid((64, 64, depth), ras_affine(2.0, (64, 64, depth)))


def restored(depth: int = 24, side: int = 1) -> StudyReport:
    """Noise in one half of the body that the restoration has taken out."""
    clean, grid = body(depth)
    noise = np.random.default_rng(0).normal(0, 30, clean.shape).astype(np.float32)
    noise[: 32 if side else 0] = 0
    return make_restoration_report("ct-1", clean, clean + noise, grid, facts={"modality": "CT"})


def test_each_place_is_drawn_before_after_and_as_difference() -> None:
    report = restored()
    assert report.comparison is not None
    pictures = report.comparison.pictures
    assert [role for role, _ in pictures[:3]] == ["before", "after", "difference"]
    assert len({(p.kind, p.index) for _, p in pictures}) == len(pictures) / 3 == 5
    before, after, difference = (p.pixels[200:220, :, 0].astype(float) for _, p in pictures[:3])
    columns = before.shape[1]
    # Index 0 is the patient's left, which is on the right of the picture.
    noisy, quiet = slice(columns // 6, columns // 3), slice(columns * 2 // 3, columns * 5 // 6)
    assert before[:, noisy].std() > 10 > after[:, noisy].std()
    assert np.abs(before[:, quiet] - after[:, quiet]).max() <= 1
    assert difference[:, noisy].std() > 20
    assert np.abs(difference[:, quiet] - 127).max() <= 1


def test_the_noise_is_measured_in_the_body() -> None:
    clean, grid = body()
    assert np.array_equal(foreground(clean), clean > 0)
    assert foreground(np.zeros((3, 3, 3))).all()
    report = restored(side=0)
    assert report.restoration is not None
    assert report.restoration.before.noise == pytest.approx(30, rel=0.1)
    assert to_json(report)["restoration"]["after"]["noise"] < 0.1
    with pytest.raises(MedvitError, match="grid"):
        make_restoration_report("x", clean, clean[:-1], grid)


def test_a_single_slice_is_reported(tmp_path: Path) -> None:
    report = restored(depth=1)
    assert report.comparison is not None and len(report.comparison.pictures) == 3
    page = write_html(report, tmp_path / "r.html", language="de").read_text()
    assert page.count("<img") >= 3 and "Differenz" in page and "Rauschen, HU" in page
    assert write_pdf(report, tmp_path / "r.pdf").stat().st_size > 10_000
