"""The words and figures of a report, against tables worked out by hand."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from medvit.reports import Stated, load_language, make_report
from medvit.reports.content import Content
from medvit.studies.labels import LabelTable
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN, organs, ras_affine


def content(language: str = "en", **others: Any) -> Content:
    return Content(organs(**others), load_language(language))


def test_facts_of_the_examination() -> None:
    facts = {"modality": "MR", "manufacturer": "ACME", "model": "X 1", "slice_thickness": 4.9999998}
    stated = Stated(33.4, "F", datetime.date(2024, 3, 5))
    rows = dict(content("de", facts=facts, stated=stated).facts())
    assert list(rows.values()) == [
        "organs", "05.03.2024", "33 Jahre, weiblich", "Magnetresonanz (MR)", "ACME, X 1", "5",
        "20 × 20 × 10; 5,00 × 5,00 × 5,00 mm",
    ]  # fmt: skip


def test_great_age_does_not_identify_anybody() -> None:
    rows = dict(content(stated=Stated(age=93.0)).facts())
    assert any("90+" in text for text in rows.values()) and "93" not in str(rows)


def test_figures_of_a_head_with_its_totals_and_percentiles() -> None:
    values = {s.name: s.value for s in BRAIN}
    labels = np.zeros((100, 100, 160), np.uint8)
    labels[:, :, :120] = values["left cerebral white matter"]  # 1,200 ml
    labels[:, :, 120:150] = values["cerebrospinal fluid"]  # 300 ml
    labels[:, :, 150:] = values["left lateral ventricle"]  # 100 ml
    grid = Grid(labels.shape, ras_affine(1.0, labels.shape))
    head = make_report("head", labels, grid, BRAIN, facts={"modality": "MR"})
    rows = Content(head, load_language("en")).totals()
    assert [(ml, share) for _, ml, share, _ in rows] == [
        ("1,600", ""), ("1,200", "75.0"), ("100", "6.2"), ("400", "25.0")
    ]  # fmt: skip
    assert {percentile for *_, percentile in rows} == {""}  # neither age nor sex is known
    assert Content(head, load_language("en")).norm_notes() == [load_language("en")["no_norms"]]


def test_an_impossible_intracranial_volume_is_marked() -> None:
    labels = np.full((10, 10, 10), BRAIN.by_name["left thalamus"].value, np.uint8)
    head = make_report("tiny", labels, Grid(labels.shape, np.eye(4)), BRAIN)
    assert Content(head, load_language("en")).totals()[0][1] == "1.00 ✕"


@pytest.mark.parametrize(("modality", "rows"), [("CT", 2), ("MR", 3)])
def test_signal_to_noise_is_not_shown_for_hounsfield_units(modality: str, rows: int) -> None:
    image = np.random.default_rng(0).normal(100, 5, (24, 24, 24)).astype(np.float32)
    grid, nothing = Grid(image.shape, np.eye(4)), np.zeros(image.shape, np.uint8)
    restored = make_report(
        "r", nothing, grid, LabelTable("none", ()), image, facts={"modality": modality}, restored_from=image
    )
    made = Content(restored, load_language("en"))
    assert len(made.restoration()) == rows
    assert all(before == after for _, before, after in made.restoration())
    assert made.title == load_language("en")["restoration_title"]
    overview = made.overview()
    assert overview is not None and "labelled" not in overview.caption + overview.alt


def test_provenance_is_written_out() -> None:
    made = content(
        provenance={"odd_key": {"a": [1, 2]}, "bundle": "b"},
        timings={"inference": 1.234},
        notes=("One.", "Two."),
    )
    rows = dict(made.provenance())
    assert rows["odd key"] == "a 1, 2"
    assert rows[made.words["timings"]] == "inference 1.23"
    assert rows[made.words["notes"]] == "One. Two."
