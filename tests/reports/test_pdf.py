"""The PDF: pages of A4 that say what the HTML says."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.reports import Prior, StudyReport, make_report, write_pdf
from medvit.reports.sheet import Sheet
from medvit.studies.labels import load_label_table
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


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[list[str]]]]:
    """Header and rows of each table, in the order in which a PDF gets them."""
    tables: list[tuple[list[str], list[list[str]]]] = []
    original = Sheet.rows

    def rows(sheet: Sheet, header: list[str], cells: list[list[str]], *args: Any, **options: Any) -> None:
        tables.append((header, cells))
        original(sheet, header, cells, *args, **options)

    monkeypatch.setattr(Sheet, "rows", rows)
    return tables


def test_a_volume_stands_in_the_column_of_its_own_side_only(
    report: StudyReport, written: list[tuple[list[str], list[list[str]]]], tmp_path: Path
) -> None:
    write_pdf(report, tmp_path / "head.pdf")
    [(header, rows)] = [table for table in written if "ml left" in table[0]]
    assert all(len(row) == len(header) for row in rows)
    columns = {name: header.index(name) for name in ("ml left", "right", "both")}
    by_name = {row[0]: [row[column] for column in columns.values()] for row in rows}
    assert all(by_name["hippocampus"])
    assert by_name["brain-stem"][:2] == ["", ""] and by_name["brain-stem"][2]
    written.clear()
    chosen = BRAIN.chosen(["hippocampus", "left amygdala", "right thalamus"])
    write_pdf(report.only(chosen), tmp_path / "chosen.pdf")
    [(header, rows)] = [table for table in written if "ml left" in table[0]]
    filled = {row[0]: [bool(row[column]) for column in columns.values()] for row in rows}
    assert filled == {
        "hippocampus": [True, True, True],
        "left amygdala": [True, False, False],
        "right thalamus": [False, True, False],
    }
    written.clear()
    table = load_label_table("hippocampus")
    crop = np.zeros((12, 12, 12), np.uint8)
    crop[2:6], crop[6:10] = 1, 2
    write_pdf(make_report("crop", crop, Grid(crop.shape, np.eye(4)), table), tmp_path / "crop.pdf")
    [(header, rows)] = [one for one in written if "ml" in one[0] and len(one[0]) == 4]
    assert not [name for name in header if "left" in name or "right" in name]
    assert [row[:2] for row in rows] == [
        ["hippocampal head", "0.58 ▼"],
        ["hippocampal body and tail", "0.58 ▼"],
    ]


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
