"""The report as one HTML file: it stands alone, is whole or not there, and takes nothing for markup."""

from __future__ import annotations

import base64
import errno
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvit.errors import MedvitError
from medvit.reports import StudyReport, make_report, write_html
from medvit.reports.content import Figure
from medvit.reports.html import data_uri
from medvit.reports.pictures import Picture
from tests.reports.html_page import Page
from tests.reports.phantom import BRAIN, head

SHA = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def ordinary() -> StudyReport:
    image, labels, grid = head()
    facts = {"modality": "MR", "study_date": "20240305", "series_description": "T1 <b>3D</b>"}
    provenance = {"bundle": "brain", "weights_sha256": SHA, "software": {"medvit": "0.1.0"}}
    return make_report(
        "study-1",
        labels,
        grid,
        BRAIN,
        image,
        facts=facts,
        provenance=provenance,
        patient={"name": "Doe^Jane"},
    )


def test_html_stands_alone_and_says_what_ran(ordinary: StudyReport, tmp_path: Path) -> None:
    file = write_html(ordinary, tmp_path / "report.html")
    page = Page(file.read_text())
    assert page.depth == []
    assert page.outside == []
    assert len(page.images) >= 8
    assert all(image["alt"] and image["src"].startswith("data:image/jpeg") for image in page.images)
    assert file.stat().st_size < 6e6
    for words in ("For research use only", SHA, "medvit 0.1.0", "No findings", "No check found"):
        assert words in page.text
    for words in ("Doe", "2024-03-05", "T1 <b>3D</b>"):
        assert words not in page.text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_html_volumes_stand_beside_their_structure(ordinary: StudyReport, tmp_path: Path) -> None:
    text = write_html(ordinary, tmp_path / "r.html").read_text()
    (row,) = re.findall(r"<tr><th scope=\"row\">.*?</span>caudate nucleus</th>(.*?)</tr>", text)
    volume = ordinary.measurements["left caudate nucleus"].volume_ml
    assert row.startswith(f"<td>{volume:.2f}</td>")


def test_html_volumes_of_one_side_stand_in_its_column(ordinary: StudyReport, tmp_path: Path) -> None:
    chosen = BRAIN.chosen(["hippocampus", "left amygdala", "right thalamus"])
    text = write_html(ordinary.only(chosen), tmp_path / "r.html").read_text()
    cells = {
        name: re.findall(r"<td>(.*?)</td>", row)[:3]
        for name, row in re.findall(r"<tr><th scope=\"row\"><span[^>]*></span>([^<]*)</th>(.*?)</tr>", text)
    }
    left, right = (ordinary.measurements[f].volume_ml for f in ("left amygdala", "right thalamus"))
    assert cells["left amygdala"] == [f"{left:.2f}", "", ""]
    assert cells["right thalamus"] == ["", f"{right:.2f}", ""]
    assert all(cells["hippocampus"])


def test_a_failed_write_leaves_the_old_page(ordinary: StudyReport, tmp_path: Path, monkeypatch: Any) -> None:
    file = write_html(ordinary, tmp_path / "r.html")
    before = file.read_bytes()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(MedvitError, match="free space"):
        write_html(ordinary, tmp_path / "r.html", language="de")
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_pictures_are_embedded_as_jpeg() -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, 12:] = (250, 10, 20)
    kind, text = data_uri(Figure(Picture(pixels, "axial"), "", "")).split(",")
    assert kind == "data:image/jpeg;base64"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)
    assert read.shape == pixels.shape and np.abs(read - pixels).max() < 30


def test_text_of_headers_is_escaped(ordinary: StudyReport, tmp_path: Path) -> None:
    text = write_html(ordinary, tmp_path / "r.html", show_patient=True).read_text(encoding="utf-8")
    assert "T1 &lt;b&gt;3D&lt;/b&gt;" in text and "<b>3D" not in text


def test_an_unknown_language_writes_nothing(ordinary: StudyReport, tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="'xx'"):
        write_html(ordinary, tmp_path / "r.html", language="xx")
    assert not list(tmp_path.iterdir())
