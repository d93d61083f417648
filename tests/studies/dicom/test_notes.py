"""Notes on a volume: each harmless hazard has its sentence, and a sound volume has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from medvit.studies.dicom.headers import read_header
from medvit.studies.dicom.notes import remarks
from medvit.studies.dicom.planes import Plane, Rescale, single_plane
from tests.studies.dicom.hazards import write_all
from tests.studies.dicom.synthetic import made_up


def planes(folder: Path, change: Callable[[Dataset], None]) -> list[Plane]:
    slices = made_up().datasets()[:2]
    for ds in slices:
        change(ds)
    write_all(slices, folder)
    return [single_plane(read_header(path)) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, ""),
        ({"LossyImageCompression": "01"}, "compressed with loss (files: 2)"),
        ({"BurnedInAnnotation": "YES"}, "Text is burned into the pixels (files: 2)"),
        ({"RescaleIntercept": "0"}, "No value of this CT can be below zero"),
        ({"RescaleIntercept": "0", "Modality": "MR"}, ""),
        ({"PixelSpacing": [0.03, 0.03]}, "The pixel spacing of 0.03 x 0.03 mm is unusual"),
        ({"PixelSpacing": [25, 25]}, "The pixel spacing of 25 x 25 mm is unusual"),
    ],
)
def test_each_hazard_has_its_sentence(attributes: dict[str, str], words: str, tmp_path: Path) -> None:
    found = remarks(planes(tmp_path, lambda ds: ds.update(attributes)))
    assert len(found) == bool(words)
    assert words in "".join(found)


def test_rescale_types_that_differ_are_counted(tmp_path: Path) -> None:
    first, second = planes(tmp_path, lambda _: None)
    other = replace(second, rescale=Rescale(1.0, -1024.0, "", stated=True))
    (note,) = remarks([first, other])
    assert "(HU in 1, unstated in 1)" in note
