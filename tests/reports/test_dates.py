"""Dates as DICOM, files and people state them, and the date of an earlier study."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.reports.dates import parse_date, prior_and_date

DAY = datetime.date(2024, 3, 5)


@pytest.mark.parametrize("stated", ["2024-03-05", "20240305", DAY, datetime.datetime(2024, 3, 5, 23, 59)])
def test_every_usual_form_is_one_day(stated: object) -> None:
    assert parse_date(stated) == DAY


@pytest.mark.parametrize("stated", ["", None, "2024-02-30", "5 March", 20241305])
def test_anything_else_is_no_day(stated: object) -> None:
    assert parse_date(stated) is None


def test_a_date_follows_the_file_and_may_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "study@home.json"
    file.touch()
    assert prior_and_date(file) == (file, None)
    assert prior_and_date(f"{file}@2024-03-05") == (file, DAY)
    gone = tmp_path / "gone.json"
    assert prior_and_date(f"{gone}@2024-03-05") == (gone, DAY), "the reader says that it is missing"
    with pytest.raises(MedvitError, match=r"'2024-02-30' is not a date; state it as .*home\.json@YYYY-MM-DD"):
        prior_and_date(f"{file}@2024-02-30")
