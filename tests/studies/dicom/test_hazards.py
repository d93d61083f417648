"""Every hazard of a DICOM folder ends as the right volume or as a refusal that names file and attribute."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from medvit.errors import StudyError
from medvit.studies.dicom import read, scan
from tests.studies.dicom.hazards_of_series import HAZARDS
from tests.studies.dicom.synthetic import Synthetic, assert_right, made_up


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def truth() -> Synthetic:
    return made_up()


def test_all_are_here() -> None:
    assert len(HAZARDS) == 102


@pytest.mark.parametrize("name", sorted(HAZARDS))
def test_hazard(
    name: str,
    truth: Synthetic,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hazard = HAZARDS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom is right to complain when it writes them
        expected = hazard.write(truth, tmp_path) or [truth]
    capfd.readouterr()
    caplog.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scan(files(tmp_path)).series
        if hazard.refusal:
            assert found
            for series in found:
                with pytest.raises(StudyError) as refusal:
                    read(series)
                assert refusal.value.code in hazard.refusal.split("|")
                assert refusal.value.path is not None
                assert tmp_path in refusal.value.path.parents
        else:
            assert len(found) == len(expected)
            for series, volume in zip(found, expected, strict=True):
                image, grid, notes = read(series)
                assert_right(image, grid, volume)
                assert hazard.note in " ".join(notes)
    assert capfd.readouterr().err == ""
    assert caplog.records == []
