"""The words with which a conversion is described, and what they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser

from medvit.bundles.convert.settings import axis_order, intensity_transform, label_table, parse_numbers
from medvit.errors import MedvitError


def scaled(intensity: str, values: list[float]) -> list[float]:
    config = {"image_key": "image", "step": intensity_transform(intensity)}
    step = ConfigParser(config).get_parsed_content("step")
    return np.asarray(step({"image": np.array([[values]], np.float32)})["image"]).ravel().tolist()


def test_a_window_runs_from_0_to_1_or_is_standardised() -> None:
    assert scaled("window:-100:300", [-500, -100, 100, 300, 900]) == pytest.approx([0, 0, 0.5, 1, 1])
    assert scaled("window:-100:300:100:50", [-500, 100, 150, 900]) == pytest.approx([-4, 0, 1, 4])


def test_standard_scores_are_of_all_voxels_or_of_those_above_0() -> None:
    whole, inside = scaled("zscore", [0, 0, 2, 4]), scaled("zscore:nonzero", [0, 0, 2, 4])
    assert np.mean(whole) == pytest.approx(0, abs=1e-6) and np.std(whole) == pytest.approx(1, rel=1e-5)
    assert inside == pytest.approx([0, 0, -1, 1], rel=1e-5)


@pytest.mark.parametrize(
    "intensity",
    ["", "minmax", "window", "window:3:2", "window:0:1:0:0", "window:0:1:0", "zscore:all", "window:a:b"],
)
def test_other_intensities_are_refused(intensity: str) -> None:
    with pytest.raises(MedvitError, match="--intensity takes percentile, zscore"):
        intensity_transform(intensity)


def test_directions_give_the_order_of_the_patients_axes() -> None:
    assert axis_order("RAS") == axis_order("LPI") == (0, 1, 2)
    assert axis_order("SPL") == (2, 1, 0)
    assert axis_order("AIR") == (1, 2, 0)
    for wrong in ("RA", "RLS", "RASP", "ras", "XYZ", ""):
        with pytest.raises(MedvitError, match="takes three directions"):
            axis_order(wrong)


def test_labels_are_names_or_a_table_in_a_file(tmp_path: Path) -> None:
    assert label_table("liver, spleen")["structures"] == [{"name": "liver"}, {"name": "spleen"}]
    file = tmp_path / "organs.json"
    file.write_text(json.dumps({"structures": [{"name": "liver"}]}))
    assert label_table(str(file)) == {"name": "organs", "structures": [{"name": "liver"}]}
    for wrong in ("liver,liver", "liver,", ""):
        with pytest.raises(MedvitError, match="names that differ"):
            label_table(wrong)
    file.write_text("[1, 2]")
    with pytest.raises(MedvitError, match="is not a label table"):
        label_table(str(file))


def test_numbers_are_whole_and_separated_by_commas() -> None:
    assert parse_numbers("3,1,2") == (3, 1, 2)
    assert parse_numbers("") == ()
    with pytest.raises(MedvitError, match="whole numbers"):
        parse_numbers("1,b")
