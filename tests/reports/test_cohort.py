"""The page and tables of a cohort."""

from __future__ import annotations

import copy
import csv
import html
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.reports import CohortRow, cohort_page, make_report, to_json, write_cohort_csv
from tests.reports.phantom import BRAIN, head

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    _, labels, grid = head()
    return to_json(make_report("s", labels, grid, BRAIN, facts={"study_date": "2024-03-05"}))


def cohort(content: dict[str, Any], count: int) -> list[CohortRow]:
    """Studies whose volumes scatter by 5 %; the sixth has a hippocampus of twice its size; two failed."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        mine = copy.deepcopy(content)
        mine["study"]["id"] = f"study-{i:04}"
        for s in mine["structures"]:
            s["volume_ml"] *= float(rng.normal(1, 0.05))
            if i == 5 and s["name"] == "left hippocampus":
                s["volume_ml"] *= 2
        rows.append(CohortRow(f"study-{i:04}", mine, report=f"study-{i:04}/report.html"))
    rows.append(CohortRow("bad <1>", cause="a.nii.gz: the file is cut short (nifti-truncated)"))
    rows.append(CohortRow("bad-2", cause="no image in the folder (no-image)"))
    return rows


def test_page_lists_studies_failures_and_outliers(content: dict[str, Any], tmp_path: Path) -> None:
    text = cohort_page(cohort(content, 20), tmp_path / "cohort.html").read_text()
    assert text.count('href="study-') >= 20
    assert "bad &lt;1&gt;" in text and "the file is cut short (nifti-truncated)" in text
    outliers = text[text.index("Outliers") : text.index("Distributions")]
    first = re.findall(r"<tr>.*?</tr>", outliers)[1]
    assert "study-0005" in first and "left hippocampus" in first
    assert text.count("<svg") == len(BRAIN) + 1
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_a_thousand_studies_are_written_quickly_and_stay_small(
    content: dict[str, Any], tmp_path: Path
) -> None:
    rows = cohort(content, 20)[:20] * 50
    start = time.process_time()
    file = cohort_page(rows, tmp_path / "cohort.html")
    assert time.process_time() - start < 5
    assert file.stat().st_size < 4e6


def test_few_studies_have_no_outliers(content: dict[str, Any], tmp_path: Path) -> None:
    text = cohort_page(cohort(content, 6), tmp_path / "c.html").read_text()
    assert "None." in text[text.index("Outliers") : text.index("Distributions")]


@pytest.mark.parametrize("rows", [[], [CohortRow("a", cause="broken")]])
def test_a_cohort_without_results(rows: list[CohortRow], tmp_path: Path) -> None:
    text = cohort_page(rows, tmp_path / "c.html").read_text()
    assert f"<strong>{len(rows)}</strong> failed" in text


def test_csv_long_and_wide(content: dict[str, Any], tmp_path: Path) -> None:
    rows = cohort(content, 3)
    with write_cohort_csv(rows, tmp_path / "cohort.csv").open() as file:
        wide = list(csv.DictReader(file))
    with write_cohort_csv(rows, tmp_path / "long.csv", long=True).open() as file:
        long = list(csv.DictReader(file))
    assert [r["status"] for r in wide] == ["done"] * 3 + ["failed"] * 2
    assert len(long) == 3 * len(BRAIN) + 2
    putamen = next(r for r in long if r["study"] == "study-0001" and r["structure"] == "left putamen")
    assert putamen["volume_ml"] == wide[1]["left_putamen_ml"]
    assert wide[3]["cause"].endswith("(nifti-truncated)")


def test_other_languages(content: dict[str, Any], tmp_path: Path) -> None:
    text = cohort_page(cohort(content, 3), tmp_path / "c.html", language="de_CH").read_text()
    assert "Hippocampus (links)" in text and "Ausreißer" in text


@pytest.mark.debian
@pytest.mark.skipif(CHROMIUM is None, reason="needs the Debian package chromium")
def test_a_browser_sorts_and_filters(content: dict[str, Any], tmp_path: Path) -> None:
    rows = cohort(content, 130)
    page = cohort_page(rows, tmp_path / "cohort.html")
    run = """<script>
      const rows = () => [...document.querySelectorAll("#studies tbody tr")];
      const visible = () => rows().filter((r) => r.offsetHeight).length;
      const before = visible();
      document.querySelectorAll("#studies thead button")[4].click();
      const up = rows().map((r) => r.cells[4].textContent);
      const filter = document.querySelector("#filter");
      filter.value = "study-012"; filter.dispatchEvent(new Event("input"));
      document.title = JSON.stringify({ before, up, filtered: visible() });
    </script>"""
    page.write_text(page.read_text().replace("</body>", run + "</body>"))
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    command.append(f"--user-data-dir={tmp_path / 'profile'}")
    dom = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()
    seen = json.loads(html.unescape(re.findall(r"<title>(.*?)</title>", dom)[0]))
    white_matter = [float(v) for v in seen["up"]]
    assert white_matter == sorted(white_matter) and len(white_matter) == 130
    assert (seen["before"], seen["filtered"]) == (100, 10)
