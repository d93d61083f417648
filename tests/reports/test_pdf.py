"""The PDF: pages of A4 that say what the HTML says."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from medvit.reports import Prior, StudyReport, make_report, write_pdf
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN, head


@pytest.fixture(scope="module")
def report() -> StudyReport:
    image, labels, grid = head((40, 48, 40), 4.5)
    return make_report(
        "pdf-1", labels, grid, BRAIN, image,
        facts={"modality": "MR", "study_date": "20240305"},
        provenance={"bundle": "brain", "weights_sha256": "ab" * 32},
        priors=(Prior("old", datetime.date(2020, 1, 2), {"left hippocampus": 3.0}),),
        restored_from=image + np.random.default_rng(0).normal(0, 9, labels.shape),
    )  # fmt: skip


def test_pages_are_a4_and_hold_the_pictures(report: StudyReport, tmp_path: Path) -> None:
    content = write_pdf(report, tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    sizes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content)
    assert sizes
    assert len(re.findall(rb"/Type /Page\b", content)) >= 3
    for width, height in sizes:
        assert (float(width), float(height)) == (pytest.approx(595.3, abs=0.2), pytest.approx(841.9, abs=0.2))
    assert content.count(b"/Subtype /Image") >= len(report.slices) + 2
    assert len(content) < 8e6
    assert [p.name for p in tmp_path.iterdir()] == ["report.pdf"]


def test_nothing_found_still_makes_a_pdf(tmp_path: Path) -> None:
    empty = make_report("empty", np.zeros((9, 9, 1), np.uint8), Grid((9, 9, 1), np.eye(4)), BRAIN)
    content = write_pdf(empty, tmp_path / "r.pdf", language="fr").read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)endstream", content, re.S)
    assert any(b"BT" in zlib.decompress(s) for s in streams if s[:1] == b"x")


@pytest.mark.debian
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs the Debian package poppler-utils")
def test_words_can_be_read_back(report: StudyReport, tmp_path: Path) -> None:
    file = write_pdf(report, tmp_path / "r.pdf", language="de", show_patient=True)
    text = subprocess.run(
        ["pdftotext", "-layout", str(file), "-"], capture_output=True, check=True
    ).stdout.decode()
    for words in ("Nur für die Forschung", "Hippocampus", "05.03.2024", "02.01.2020", "ab" * 32, "Rauschen"):
        assert words in text
