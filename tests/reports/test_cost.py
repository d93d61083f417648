"""What a report of a 1 mm brain costs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from medvit.reports import make_report, write_html, write_json
from tests.reports.phantom import BRAIN, head


@pytest.mark.slow
def test_a_report_of_a_1_mm_brain_is_cheap(tmp_path: Path) -> None:
    image, labels, grid = head((182, 218, 182), 1.0)
    make_report("warm", labels[::4, ::4, ::4], type(grid)((46, 55, 46), grid.affine), BRAIN)
    start = time.process_time()
    report = make_report("one", labels, grid, BRAIN, image, facts={"modality": "MR"})
    write_json(report, tmp_path / "measurements.json")
    page = write_html(report, tmp_path / "report.html", viewer=True)
    assert time.process_time() - start < 3.0
    assert page.stat().st_size < 6e6
