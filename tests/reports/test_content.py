"""The words and figures of a report, against tables worked out by hand."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from medvit.reports import Stated, StudyReport, load_language, make_report
from medvit.reports.content import Content, VolumeRow
from medvit.studies.labels import LabelTable, load_label_table
from medvit.studies.study import Grid
from tests.reports.phantom import BRAIN, ras_affine

ORGANS: dict[str, Any] = {
    "name": "organs",
    "source": "Atlas of 1999.",
    "structures": [
        {"name": "kidney", "paired": True, "color": [10, 20, 30], "plausible_ml": [2, 200]},
        {"name": "right atrium", "side": "right", "color": [1, 2, 3]},
        {"name": "atrium", "color": [255, 0, 128]},
        {"name": "spleen"},
    ],
}


def organs(table: LabelTable | None = None, **others: Any) -> StudyReport:
    """Blocks in voxels of 0.125 ml: left kidney 1 ml, right kidney 3 ml, right atrium 4 ml, atrium 2 ml."""
    labels = np.zeros((20, 20, 10), np.uint8)
    for value, (start, stop) in {1: (1, 2), 2: (4, 7), 3: (8, 12), 4: (14, 16)}.items():
        labels[start:stop, 2:4, 2:6] = value
    image = np.where(labels == 2, 1234.0, np.where(labels == 1, 12.34, 0)).astype(np.float32)
    grid = Grid(labels.shape, ras_affine(5.0, labels.shape))
    return make_report("organs", labels, grid, table or load_label_table(ORGANS), image, **others)


def content(language: str = "en", **others: Any) -> Content:
    return Content(organs(**others), load_language(language))


def test_the_table_of_volumes_by_hand() -> None:
    kidney, right_atrium, atrium, spleen = content().volumes()
    assert kidney == VolumeRow(
        "kidney", ("#0a141e", "#0a141e"), ("1.00 ▼", "3.00"), "4.00", "40.0",
        ("12.3 ± 0.0", "1,234 ± 0"), "−100.0", "2.0 – 200", ("", ""),
    )  # fmt: skip
    assert right_atrium == VolumeRow(
        "right atrium", ("#010203",), ("4.00",), "4.00", "40.0", ("0.00 ± 0.00",), "", "", ("",)
    )
    assert (atrium.name, atrium.volumes, atrium.share) == ("atrium", ("2.00",), "20.0")
    assert (spleen.volumes, spleen.total, spleen.share, spleen.intensities) == (("not found",), "", "", ("",))


def test_a_volume_above_its_range_points_upwards() -> None:
    table = load_label_table(ORGANS | {"structures": [{"name": "mass", "plausible_ml": [0, 0.5]}]})
    labels = np.ones((10, 10, 10), np.uint8)
    report = make_report("mass", labels, Grid(labels.shape, np.eye(4)), table)
    (row,) = Content(report, load_language("de")).volumes()
    assert (row.volumes, row.range) == (("1,00 ▲",), "0,0 – 0,5")


def test_a_structure_of_one_side_stands_alone_in_table_and_legend() -> None:
    # Both sides of the kidney share a colour and a line; the right atrium has no other side.
    assert content().legend() == [
        ("#0a141e", "kidney"), ("#010203", "right atrium"), ("#ff0080", "atrium")
    ]  # fmt: skip


def test_sides_of_two_colours_are_named_in_the_legend() -> None:
    structures = [{"name": "left lung", "side": "left"}, {"name": "right lung", "side": "right"}]
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[:3], labels[6:] = 1, 2
    table = load_label_table({"name": "lungs", "structures": structures})
    made = Content(make_report("x", labels, Grid(labels.shape, np.eye(4)), table), load_language("en"))
    assert [name for _, name in made.legend()] == ["left lung", "right lung"]
    (row,) = made.volumes()
    assert (row.name, row.asymmetry) == ("lung", "+0.0")


def test_table_notes_name_the_whole_and_the_source() -> None:
    notes = content().table_notes()
    assert "10.0 ml" in notes[0]  # 1 + 3 + 4 + 2
    assert notes[-1].count("Atlas of 1999.") == 1 and ".." not in notes[-1]


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


def test_an_intracranial_volume_that_cannot_be_is_marked() -> None:
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
