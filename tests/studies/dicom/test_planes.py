"""What a header says of one image's place and values, and what is refused because it could mislead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medvit.errors import StudyError
from medvit.studies.dicom.headers import Attributes
from medvit.studies.dicom.planes import Rescale, oriented, positioned, rescaled, spaced, thick


def attributes(**values: Any) -> Attributes:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return Attributes(dataset, Path("image.dcm"))


def test_directions_are_made_unit_vectors() -> None:
    found = oriented(attributes(ImageOrientationPatient=[0.9995, 0, 0, 0, 0, -1.0005]))
    np.testing.assert_array_equal(found, [1, 0, 0, 0, 0, -1])


@pytest.mark.parametrize(
    ("read", "values", "words"),
    [
        (oriented, {"ImageOrientationPatient": [1, 0, 0, 0.1, 0.99, 0]}, "not perpendicular unit vectors"),
        (oriented, {"ImageOrientationPatient": [1, 0, 0, 0, 0, 0]}, "not perpendicular unit vectors"),
        (oriented, {}, "missing or empty"),
        (positioned, {"ImagePositionPatient": [0, 0, 1e6]}, "implausibly far away"),
        (spaced, {"PixelSpacing": [0.5, 0]}, "is not positive"),
        (spaced, {"PixelSpacing": [0.5, 101]}, "implausibly large for millimetres"),
        (spaced, {"PixelSpacing": [0.5]}, "is not usable"),
        (rescaled, {"RescaleSlope": 0, "RescaleIntercept": 0}, "make all voxels equal"),
        (rescaled, {"RescaleIntercept": -1024}, "an intercept without a slope"),
    ],
)
def test_a_place_or_a_value_in_doubt_is_refused(read: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words) as error:
        read(attributes(**values))
    assert "image.dcm" in str(error.value)


def test_the_step_between_slices_is_the_stated_one_before_the_thickness() -> None:
    assert thick(attributes(SpacingBetweenSlices=2, SliceThickness=3)) == 2
    assert thick(attributes(SpacingBetweenSlices=-2, SliceThickness=3)) == 3
    assert thick(attributes(SliceThickness=0)) is None


def test_a_rescale_is_taken_as_stated_or_not_at_all() -> None:
    stated = attributes(RescaleSlope=2, RescaleIntercept=-5, RescaleType="HU")
    assert rescaled(stated) == Rescale(2.0, -5.0, "HU", stated=True)
    assert rescaled(attributes(RescaleSlope=2)) == Rescale(2.0, 0.0, "", stated=True)
    assert rescaled(attributes()) == rescaled(None) == Rescale()
