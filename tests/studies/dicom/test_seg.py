"""Segmentations as label maps: where the voxels lie, and what the segments are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.errors import StudyError
from medvit.studies.dicom.seg import Segment, is_segmentation, read_segmentation
from medvit.studies.dicom_out import read_source, save_dicom, segmentation
from medvit.studies.dicom_out.common import Algorithm
from medvit.studies.labels import Code, load_label_table
from tests.studies.dicom.hazards import write_all
from tests.studies.dicom.synthetic import made_up
from tests.studies.dicom_out.synthetic import OBLIQUE, write_series

TABLE = load_label_table(
    {
        "name": "test",
        "structures": [
            {"name": "thalamus", "paired": True, "code": {"value": "42695009", "meaning": "Thalamus"}},
            {"name": "liver", "code": {"value": "10200004", "meaning": "Liver"}},
        ],
    }
)


@pytest.mark.parametrize(
    ("label", "side", "name"),
    [
        ("kidney", "left", "left kidney"),
        ("Left kidney", "left", "Left kidney"),
        ("kidney_left", "left", "kidney_left"),
        ("cleft palate", "left", "left cleft palate"),
        ("kidney", "", "kidney"),
    ],
)
def test_the_side_stands_in_the_name_once(label: str, side: str, name: str) -> None:
    assert Segment(1, label, Code("1", "x"), side).name == name


@pytest.mark.parametrize("encoding", ["binary", "labelmap"])
def test_a_segmentation_becomes_its_label_map(encoding: str, tmp_path: Path) -> None:
    paths, grid = write_series(tmp_path / "source", orientation=OBLIQUE)
    label_map = np.zeros(grid.shape, np.uint8)
    label_map[2:9, 1:5, 1:4], label_map[10:15, 3:7, 2:5], label_map[4:11, 9:12, 2:5] = 1, 2, 3
    source, algorithm, file = read_source(paths), Algorithm("test", "1", "ab" * 32), tmp_path / "seg.dcm"
    save_dicom(segmentation(label_map, grid, source, TABLE, algorithm, encoding=encoding), file)
    assert is_segmentation(file) and not is_segmentation(paths[0])
    found = read_segmentation(file)
    assert [(s.number, s.name, s.side) for s in found.segments] == [(s.value, s.name, s.side) for s in TABLE]
    assert [s.code.value for s in found.segments] == [s.code.value for s in TABLE]
    for value in (1, 2, 3):
        here, there = (
            np.argwhere(voxels == value) @ g.affine[:3, :3].T + g.affine[:3, 3]
            for voxels, g in ((found.label_map, found.grid), (label_map, grid))
        )
        assert len(here) == len(there)
        # Each voxel has one of the other at its place.
        distances = np.linalg.norm(here[:, None] - there[None], axis=2)
        assert distances.min(axis=1).max() < 0.02


def test_an_image_is_not_a_segmentation(tmp_path: Path) -> None:
    write_all(made_up().datasets(), tmp_path)
    file = sorted(tmp_path.iterdir())[0]
    with pytest.raises(StudyError, match="not a readable DICOM segmentation") as refusal:
        read_segmentation(file)
    assert refusal.value.path == file and refusal.value.code == "dicom-seg-unreadable"
