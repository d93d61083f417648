"""Every hazard of a DICOM folder ends as the right volume or as a refusal that names file and attribute."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from medvit.errors import StudyError
from medvit.studies.dicom import read, scan
from tests.studies.dicom.hazards_of_files import HAZARDS
from tests.studies.dicom.synthetic import SHARED_CT, Synthetic, assert_right, from_scanner, made_up


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module", params=[made_up, from_scanner])
def truth(request: pytest.FixtureRequest) -> Synthetic:
    make: Callable[[], Synthetic] = request.param
    if make is from_scanner and not SHARED_CT.is_dir():
        pytest.skip("the real CT series is not here")
    return make()


def test_all_seventy_are_here() -> None:
    assert len(HAZARDS) == 70


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
                image, grid, _ = read(series)
                assert_right(image, grid, volume)
    assert capfd.readouterr().err == ""
    assert caplog.records == []
