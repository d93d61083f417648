"""The chart of a norm over age: where band, mean and patient stand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageColor

from medvit.reports import load_language
from medvit.reports.chart import BAND, BOTTOM, HEIGHT, LEFT, LINE, POINT, RIGHT, TOP, WIDTH, norm_chart
from medvit.reports.norms import LIMIT_95, Covariates, norm_of, regressions


def drawn(picture: np.ndarray, color: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of exactly one colour."""
    rows, columns = np.nonzero((picture == ImageColor.getrgb(color)).all(axis=2))
    return rows, columns


@pytest.mark.parametrize(("age", "volume"), [(30.0, 9.0), (70.0, 4.5)])
def test_patient_and_norm_stand_at_their_age_and_volume(age: float, volume: float) -> None:
    covariates = Covariates(age, "F", 1450.0, 3.0, "Siemens")
    norm = norm_of("hippocampus", covariates)
    assert norm is not None
    picture = norm_chart("hippocampus", covariates, volume, load_language("en"))
    assert (picture.kind, picture.pixels.shape) == ("norm", (HEIGHT, WIDTH, 3))
    youngest, oldest = regressions()["ages"]
    column = LEFT + (age - youngest) / (oldest - youngest) * (WIDTH - LEFT - RIGHT)
    rows, columns = drawn(picture.pixels, POINT)
    assert columns.mean() == pytest.approx(column, abs=1)
    # Zero lies on the lower axis, so that rows above it are proportional to millilitres.
    zero = HEIGHT - BOTTOM
    rows_per_ml = (zero - rows.mean()) / volume
    band = drawn(picture.pixels, BAND)[0][drawn(picture.pixels, BAND)[1] == round(column) - 20]
    near = norm_of("hippocampus", Covariates(age - 20 / (column - LEFT) * (age - youngest), "F", 1450.0, 3.0))
    assert near is not None
    assert (zero - band.min()) / rows_per_ml == pytest.approx(near.ml(LIMIT_95), rel=0.02)
    assert (zero - band.max()) / rows_per_ml == pytest.approx(near.ml(-LIMIT_95), rel=0.02)
    line = drawn(picture.pixels, LINE)[0][drawn(picture.pixels, LINE)[1] == round(column) - 20]
    assert (zero - line.mean()) / rows_per_ml == pytest.approx(near.ml(0), rel=0.02)


def test_a_volume_far_above_the_norm_stays_inside_the_chart() -> None:
    covariates = Covariates(50.0, "M", 1600.0)
    picture = norm_chart("ventricles", covariates, 400.0, load_language("de")).pixels
    rows, _ = drawn(picture, POINT)
    assert TOP < rows.mean() < TOP + 0.1 * HEIGHT
    # The whole band then lies in the lower half.
    assert drawn(picture, BAND)[0].min() > HEIGHT / 2
