"""Totals of a head, added up by hand from the volumes of its structures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medvit.reports.brain import BrainTotals, brain_totals, hippocampus_totals, pair_totals
from medvit.reports.measurement import measure
from medvit.studies.labels import load_label_table
from medvit.studies.study import Grid

BRAIN, PARTS = load_label_table("brain"), load_label_table("hippocampus")
GRID = Grid((10, 10, 10), np.diag([10.0, 10.0, 10.0, 1.0]))  # voxels of 1 ml


def labels(table: object, **voxels: int) -> np.ndarray:
    """A label map with so many voxels of each structure, one structure after the other."""
    filled = np.zeros(1000, np.uint8)
    start = 0
    for name, count in voxels.items():
        filled[start : start + count] = table.by_name[name.replace("_", " ")].value  # type: ignore[attr-defined]
        start += count
    return filled.reshape(GRID.shape)


def test_ventricles_and_fluid_are_not_brain() -> None:
    drawn = labels(
        BRAIN, left_thalamus=20, right_thalamus=18, left_lateral_ventricle=7, third_ventricle=3,
        cerebrospinal_fluid=12,
    )  # fmt: skip
    totals = brain_totals(measure(drawn, GRID, BRAIN))
    assert totals is not None
    assert (totals.intracranial_ml, totals.brain_ml) == (pytest.approx(60), pytest.approx(38))
    assert (totals.ventricles_ml, totals.fluid_ml) == (pytest.approx(10), pytest.approx(22))
    assert totals.parenchymal_fraction == pytest.approx(38 / 60)
    assert pair_totals(measure(drawn, GRID, BRAIN))["thalamus"] == pytest.approx(38)


def test_an_empty_head_has_no_fraction() -> None:
    assert math.isnan(BrainTotals(0.0, 0.0, 0.0, 0.0).parenchymal_fraction)


def test_hippocampi_are_not_a_head() -> None:
    drawn = labels(PARTS, left_hippocampal_head=2, left_hippocampal_body_and_tail=3, right_hippocampal_head=1)
    measured = measure(drawn, GRID, PARTS)
    assert brain_totals(measured) is None
    assert hippocampus_totals(measured) == pytest.approx({"left": 5.0, "right": 1.0})
    unknown = measure(labels(PARTS, hippocampal_head=4, hippocampal_body_and_tail=2), GRID, PARTS)
    assert hippocampus_totals(unknown) == pytest.approx({"": 6.0})
