"""The table of volumes, its notes and its legend, against figures worked out by hand."""

from __future__ import annotations

import numpy as np

from medvit.reports import load_language, make_report
from medvit.reports.volumes import VolumeRow, VolumeTable
from medvit.studies.labels import load_label_table
from medvit.studies.study import Grid
from tests.reports.phantom import ORGANS, organs


def table() -> VolumeTable:
    return VolumeTable(organs(), load_language("en"))


def test_the_table_of_volumes_by_hand() -> None:
    kidney, right_atrium, atrium, spleen = table().rows()
    assert kidney == VolumeRow(
        "kidney", ("#0a141e", "#0a141e"), ("1.00 ▼", "3.00"), "4.00", "40.0",
        ("12.3 ± 0.0", "1,234 ± 0"), "−100.0", "2.0 – 200", ("", ""),
    )  # fmt: skip
    assert right_atrium == VolumeRow(
        "right atrium",
        ("#010203",),
        ("4.00",),
        "",
        "40.0",
        ("0.00 ± 0.00",),
        "",
        "",
        ("",),
        "right",
    )
    assert (atrium.name, atrium.volumes, atrium.share) == ("atrium", ("2.00",), "20.0")
    assert (spleen.volumes, spleen.total, spleen.share, spleen.intensities) == (("not found",), "", "", ("",))


def test_a_volume_above_its_range_points_upwards() -> None:
    masses = load_label_table(ORGANS | {"structures": [{"name": "mass", "plausible_ml": [0, 0.5]}]})
    labels = np.ones((10, 10, 10), np.uint8)
    report = make_report("mass", labels, Grid(labels.shape, np.eye(4)), masses)
    (row,) = VolumeTable(report, load_language("de")).rows()
    assert (row.volumes, row.range) == (("1,00 ▲",), "0,0 – 0,5")


def test_a_structure_of_one_side_stands_alone_in_table_and_legend() -> None:
    # Both sides of the kidney share a colour and a line; the right atrium has no other side.
    assert table().legend() == [
        ("#0a141e", "kidney"), ("#010203", "right atrium"), ("#ff0080", "atrium")
    ]  # fmt: skip


def test_sides_of_two_colours_are_named_in_the_legend() -> None:
    structures = [{"name": "left lung", "side": "left"}, {"name": "right lung", "side": "right"}]
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[:3], labels[6:] = 1, 2
    lungs = load_label_table({"name": "lungs", "structures": structures})
    made = VolumeTable(make_report("x", labels, Grid(labels.shape, np.eye(4)), lungs), load_language("en"))
    assert [name for _, name in made.legend()] == ["left lung", "right lung"]
    (row,) = made.rows()
    assert (row.name, row.asymmetry) == ("lung", "+0.0")


def test_table_notes_name_the_whole_and_the_source() -> None:
    notes = table().notes()
    assert "10.0 ml" in notes[0]  # 1 + 3 + 4 + 2
    assert notes[-1].count("Atlas of 1999.") == 1 and ".." not in notes[-1]
