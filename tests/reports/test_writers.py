"""The report in all of its formats: the same figures, nobody's name, and awkward grids."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.reports import (
    Prior,
    StudyReport,
    csv_text,
    long_rows,
    make_report,
    measurements_schema,
    read_prior,
    to_json,
    wide_row,
    write_html,
    write_json,
    write_pdf,
)
from medvit.reports.content import Content
from medvit.reports.language import load_language
from medvit.studies.labels import LabelTable, load_label_table
from medvit.studies.study import Grid
from tests.reports.html_page import Page
from tests.reports.phantom import BRAIN, head, ras_affine

SHA = "0123456789abcdef" * 4


def report(**others: Any) -> StudyReport:
    image, labels, grid = head()
    settings: dict[str, Any] = {
        "facts": {"modality": "MR", "study_date": "20240305", "series_description": "T1 <b>3D</b>"},
        "provenance": {"bundle": "brain", "weights_sha256": SHA, "software": {"medvit": "0.1.0"}},
        "timings": {"inference": 1.25},
        "patient": {"name": "Doe^Jane"},
    }
    return make_report("study-1", labels, grid, BRAIN, image, **(settings | others))


@pytest.fixture(scope="module")
def ordinary() -> StudyReport:
    return report()


def test_numbers_that_a_scanner_states_are_rounded() -> None:
    facts = {"modality": "MR", "slice_thickness": 0.8799999952316284, "field_strength": 1.5, "model": "1.50"}
    rows = Content(report(facts=facts), load_language("de")).facts()
    assert {"0,88", "1,5", "1.50"} <= {text for _, text in rows}


def test_the_patient_is_named_only_when_asked(ordinary: StudyReport, tmp_path: Path) -> None:
    named = Page(write_html(ordinary, tmp_path / "r.html", show_patient=True).read_text()).text
    for words in ("Doe, Jane", "2024-03-05", "T1 <b>3D</b>"):
        assert words in named
    assert "^" not in named
    anonymous = json.dumps(to_json(ordinary))
    for words in ("Doe", "2024-03-05", "20240305", "3D"):
        assert words not in anonymous
    shown = to_json(ordinary, show_patient=True)["study"]
    assert (shown["date"], shown["facts"]["series_description"]) == ("2024-03-05", "T1 <b>3D</b>")
    assert "Doe" not in repr(ordinary)


def test_json_follows_the_published_schema(ordinary: StudyReport, tmp_path: Path) -> None:
    content = json.loads(write_json(ordinary, tmp_path / "measurements.json").read_text())
    jsonschema.Draft202012Validator(measurements_schema()).validate(content)
    left = next(s for s in content["structures"] if s["name"] == "left putamen")
    assert left["volume_ml"] == pytest.approx(ordinary.measurements["left putamen"].volume_ml)
    assert left["code"] == {"value": "89278009", "meaning": "Putamen", "scheme": "SCT"}
    assert content["study"]["facts"] == {"modality": "MR"}


@pytest.mark.parametrize(
    ("shape", "spacing", "labelled"),
    [
        ((40, 40, 40), (1.0, 1.0, 1.0), False),
        ((48, 48, 1), (1.0, 1.0, 5.0), True),
        ((1, 30, 40), (3.0, 1.0, 1.0), True),
        ((48, 40, 6), (0.9, 0.9, 6.0), True),
        ((3, 3, 3), (2.0, 2.0, 2.0), True),
        ((1, 1, 1), (2.0, 2.0, 2.0), True),
        ((200, 3, 3), (1.0, 1.0, 1.0), True),
    ],
)
def test_awkward_grids_make_a_report(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], labelled: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    labels = np.zeros(shape, np.uint8)
    if labelled:
        labels[tuple(slice(n // 3, max(n // 3 + 1, 2 * n // 3)) for n in shape)] = 5
    image = rng.normal(100, 10, shape).astype(np.float32)
    result = make_report("odd", labels, Grid(shape, ras_affine(spacing, shape)), BRAIN, image)
    assert result.light != "green"
    jsonschema.validate(to_json(result), measurements_schema())
    page = Page(write_html(result, tmp_path / "r.html").read_text())
    assert bool(page.images) is (max(shape) > 1)
    assert all(image["alt"] for image in page.images)


def test_infinite_figures_are_null_in_json() -> None:
    image, labels, grid = head()
    content = to_json(make_report("still", labels, grid, BRAIN, np.full_like(image, 5.0)))
    jsonschema.validate(content, measurements_schema())
    assert content["image_quality"]["snr"] is None
    json.dumps(content, allow_nan=False)


def test_change_since_an_earlier_study(ordinary: StudyReport, tmp_path: Path) -> None:
    now = ordinary.measurements["left hippocampus"].volume_ml
    priors = (
        Prior("old", datetime.date(2020, 1, 2), {"left hippocampus": now * 1.25}),
        Prior("newer", datetime.date(2022, 1, 2), {"left hippocampus": now / 2}),
    )
    text = write_html(report(priors=priors), tmp_path / "r.html").read_text()
    assert text.index("2022-01-02") < text.index("2020-01-02")
    (row,) = re.findall(r"<tr><th scope=\"row\">left hippocampus</th>(.*?)</tr>", text)
    assert "<td>+100.0</td>" in row and "<td>−20.0</td>" in row


def test_a_measurements_file_serves_as_an_earlier_study(ordinary: StudyReport, tmp_path: Path) -> None:
    file = write_json(ordinary, tmp_path / "m.json")
    with pytest.raises(MedvitError, match=r"m\.json@YYYY-MM-DD"):
        read_prior(file)
    prior = read_prior(f"{file}@2024-03-05")
    assert read_prior(write_json(ordinary, file, show_patient=True)) == prior
    assert prior.date == datetime.date(2024, 3, 5)
    assert prior.volumes_ml["left amygdala"] == ordinary.measurements["left amygdala"].volume_ml


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"study": {"id": "a", "date": null}, "structures": []}']
)
def test_what_is_no_earlier_study_is_refused_by_name(content: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    file.write_text(content)
    with pytest.raises(MedvitError, match=r"odd\.json"):
        read_prior(file)


def test_csv_long_and_wide(ordinary: StudyReport) -> None:
    content = to_json(ordinary)
    long = list(csv.DictReader(io.StringIO(csv_text(long_rows(content)))))
    assert len(long) == len(BRAIN)
    assert float(long[0]["volume_ml"]) == pytest.approx(content["structures"][0]["volume_ml"], rel=1e-5)
    (wide,) = csv.DictReader(io.StringIO(csv_text([wide_row(content)])))
    assert float(wide["left_thalamus_ml"]) == pytest.approx(
        ordinary.measurements["left thalamus"].volume_ml, rel=1e-5
    )


def test_csv_cells_cannot_run_as_formulas() -> None:
    assert csv_text([{"study": "=cmd()", "volume": -1.5}]) == "study,volume\n'=cmd(),-1.5\n"


def test_reporting_imports_neither_torch_nor_monai() -> None:
    code = (
        "import sys, medvit.reports as r; r.make_report, r.write_html, r.write_pdf, r.cohort_page;"
        "sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_restoration_is_reported_by_noise_and_sharpness(tmp_path: Path) -> None:
    image, labels, grid = head()
    noisy = image + np.random.default_rng(3).normal(0, 20, image.shape).astype(np.float32)
    result = make_report(
        "restored", np.zeros_like(labels), grid, LabelTable("none", ()), image,
        facts={"modality": "MR"}, restored_from=noisy,
    )  # fmt: skip
    assert result.restoration is not None
    assert result.restoration.before.noise > 4 * result.restoration.after.noise
    assert "nothing_found" not in {f.code for f in result.flags}
    jsonschema.validate(to_json(result), measurements_schema())
    text = Page(write_html(result, tmp_path / "r.html").read_text()).text
    assert "Noise, a.u." in text and "Published range" not in text
    assert write_pdf(result, tmp_path / "r.pdf").stat().st_size > 10_000


def test_a_report_of_hippocampi_has_their_totals_and_the_asymmetry_of_the_whole(tmp_path: Path) -> None:
    table = load_label_table("hippocampus")
    values = {s.name: s.value for s in table}
    labels = np.zeros((40, 40, 40), np.uint8)
    # Left 3,000 and right 2,400 voxels of 1 mm: 100 * 600 / 2700 = 22.2 %.
    labels[2:12, 5:25, 5:10] = values["left hippocampal head"]
    labels[2:12, 5:25, 10:20] = values["left hippocampal body and tail"]
    labels[22:32, 5:25, 5:8] = values["right hippocampal head"]
    labels[22:32, 5:25, 8:17] = values["right hippocampal body and tail"]
    report = make_report("one", labels, Grid(labels.shape, ras_affine(1.0, labels.shape)), table)
    write_html(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="totals">Hippocampus</h2>' in page
    assert "hippocampus (left)</th><td>3.00</td>" in page and "hippocampus (right)</th><td>2.40</td>" in page
    assert "Asymmetry of head, body and tail together: +22.2 ◆\u00a0%." in page and "±8.8 %" in page
    german = write_html(report, tmp_path / "de.html", language="de").read_text(encoding="utf-8")
    assert re.search(r"Hippocampus \(links\)</th><td>3,00</td><td>55,6</td>", german)
    assert "Hippocampuskopf" in german
