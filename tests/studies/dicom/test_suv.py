"""PET arrives as standardised uptake where the header allows it, and says in which units otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medvit.studies.dicom import read, scan
from tests.studies.dicom.hazards import write_all
from tests.studies.dicom.synthetic import assert_right, made_up


def pet_slices(change: Callable[[Dataset], None]) -> list[Dataset]:
    """70 kg, 350 MBq of F-18 injected an hour before the scan."""
    slices = replace(made_up(), slopes=np.array([2.5]), intercepts=np.zeros(1)).datasets()
    for ds in slices:
        tracer = Dataset()
        tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = "3.5e8", "6586.2"
        tracer.RadiopharmaceuticalStartTime = "093000.00"
        ds.RadiopharmaceuticalInformationSequence = Sequence([tracer])
        ds.Modality, ds.Units, ds.DecayCorrection, ds.PatientWeight = "PT", "BQML", "START", "70"
        ds.SeriesDate = ds.AcquisitionDate = "20240102"
        ds.SeriesTime, ds.AcquisitionTime = "103000", "103500.5"
        change(ds)
    return slices


def keep(ds: Dataset) -> None:
    """As it is."""


def of_admission(ds: Dataset) -> None:
    ds.DecayCorrection = "ADMIN"


def already_suv(ds: Dataset) -> None:
    ds.Units, ds.SUVType = "GML", "BW"


def weightless(ds: Dataset) -> None:
    del ds.PatientWeight


def made_later(ds: Dataset) -> None:
    ds.SeriesTime = "180000"


def undecayed(ds: Dataset) -> None:
    ds.DecayCorrection = "NONE"


def unattenuated(ds: Dataset) -> None:
    ds.CorrectedImage = ["DECY", "SCAT"]


def full_stamp(ds: Dataset) -> None:
    tracer = ds.RadiopharmaceuticalInformationSequence[0]
    del tracer.RadiopharmaceuticalStartTime
    tracer.RadiopharmaceuticalStartDateTime = "20240102093000.00+0100"


HALF_LIVES = 3600 / 6586.2
DECAYED = 70_000 / (3.5e8 * 0.5**HALF_LIVES)


@pytest.mark.parametrize(
    ("change", "units", "factor"),
    [
        (keep, "SUVbw", DECAYED),
        (full_stamp, "SUVbw", DECAYED),
        (of_admission, "SUVbw", 70_000 / 3.5e8),
        (already_suv, "SUVbw", 1),
        (weightless, "Bq/ml", 1),
        (made_later, "Bq/ml", 1),
        (undecayed, "Bq/ml", 1),
        (unattenuated, "Bq/ml", 1),
    ],
)
def test_values_and_units(
    tmp_path: Path, change: Callable[[Dataset], None], units: str, factor: float
) -> None:
    write_all(pet_slices(change), tmp_path)
    (series,) = scan(tmp_path.iterdir()).series
    assert series.facts["units"] == units
    image, grid, notes = read(series)
    truth = replace(made_up(), slopes=np.array([2.5 * factor]), intercepts=np.zeros(1))
    assert_right(image, grid, truth)
    assert any("SUV" in note for note in notes) == (change is not already_suv)
