"""A small label table and a synthetic CT that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.studies.dicom_out import Algorithm
from medvit.studies.labels import LabelTable, parse_label_table
from medvit.studies.study import Grid
from tests.studies.dicom_out.synthetic import OBLIQUE, write_series


@pytest.fixture
def table() -> LabelTable:
    def code(value: str, meaning: str) -> dict[str, str]:
        return {"value": value, "meaning": meaning}

    anatomy = {"anatomy": code("123037004", "Anatomical Structure")}
    structures = [
        {"name": "thalamus", "paired": True, "code": code("42695009", "Thalamus"), "color": [0, 128, 60]},
        {"name": "liver", "paired": False, "code": code("10200004", "Liver"), "color": [221, 130, 101]},
        {"name": "spleen", "paired": False, "code": code("78961009", "Spleen"), "color": [157, 108, 162]},
    ]
    return parse_label_table({"name": "test", "categories": anatomy, "structures": structures})


@pytest.fixture
def algorithm() -> Algorithm:
    return Algorithm("segformer3d_test", "1.2.0", "ab" * 32)


@pytest.fixture
def series(tmp_path: Path) -> tuple[list[Path], Grid]:
    return write_series(tmp_path / "source", orientation=OBLIQUE)


@pytest.fixture
def label_map(series: tuple[list[Path], Grid]) -> np.ndarray:
    """Blocks of each structure but the third; the first slice is empty."""
    label_map = np.zeros(series[1].shape, np.uint8)
    label_map[2:9, 1:5, 1:4] = 1
    label_map[10:15, 3:7, 2:6] = 2
    label_map[4:11, 9:15, 3:] = 4
    return label_map
