"""Bytes changed at random end as an image or a StudyError: no other error, no warning, nothing logged."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from medvit.errors import StudyError
from medvit.studies.dicom import read, scan
from tests.studies.dicom.encoding import SYNTAXES, save, save_as
from tests.studies.dicom.hazards_of_files import multiframe
from tests.studies.dicom.synthetic import made_up
from tests.studies.dicom.test_mosaic import mosaic

OBJECTS: dict[str, Callable[[], Dataset]] = {
    "plain": lambda: made_up().datasets()[0],
    "multiframe": lambda: multiframe(made_up()),
    "mosaic": lambda: mosaic(made_up(), upward=True),
}


def changed(data: bytes, chance: random.Random) -> bytes:
    """A few bytes replaced, taken out or put in, mostly in the header."""
    new = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        at = chance.randrange(128, min(len(new), chance.choice([1500, len(new)])))
        some = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 6)))
        kind = chance.random()
        new[at : at + (1 if kind < 0.6 else len(some) if kind < 0.8 else 0)] = (
            b"" if 0.6 < kind < 0.8 else some
        )
    return bytes(new)


@pytest.mark.parametrize("source", [*OBJECTS, *SYNTAXES])
def test_changed_bytes(
    source: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "image.dcm"
    if source in OBJECTS:
        save(OBJECTS[source](), path)
    else:
        save_as(made_up().datasets()[0], path, source)
    whole, chance = path.read_bytes(), random.Random(source)
    capfd.readouterr()
    caplog.clear()
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            path.write_bytes(changed(whole, chance))
            for series in scan([path]).series:
                try:
                    read(series)
                    outcomes.add("read")
                except StudyError as error:
                    outcomes.add(error.code)
    assert capfd.readouterr().err == ""
    assert caplog.records == []
    assert len(outcomes) > 1
