"""Dates of studies, as files and people state them; quick to import, for the command's checks."""

from __future__ import annotations

import datetime
from pathlib import Path

from medvit.errors import MedvitError


def parse_date(value: object) -> datetime.date | None:
    """A date from ``YYYY-MM-DD``, DICOM's ``YYYYMMDD`` or a `datetime.date`; `None` when it is neither."""
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.date.fromisoformat(str(value))
    except ValueError:
        return None


def prior_and_date(path: Path | str) -> tuple[Path, datetime.date | None]:
    """The file of an earlier study, and the date that ``FILE@YYYY-MM-DD`` states.

    Raises
    ------
    MedvitError
        If what follows the ``@`` of an existing file is not a date.
    """
    file, at, stated = str(path).rpartition("@")
    # A folder or a file may have an @ in its own name.
    if not at or Path(path).exists() or not (Path(file).exists() or parse_date(stated)):
        return Path(path), None
    if (date := parse_date(stated)) is None:
        raise MedvitError(f"{path}: {stated!r} is not a date; state it as {file}@YYYY-MM-DD")
    return Path(file), date
