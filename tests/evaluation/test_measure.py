"""The scores of a study: structures by name, grids that must agree, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medvit.errors import MedvitError, StudyError
from medvit.evaluation import Options, Pair, StudyScores, measure_pair, read_regions
from medvit.metrics import dice, hd95, lesion_scores
from medvit.studies.labels import load_label_table
from tests.evaluation.cohort import AFFINE, save, two_balls


def measured(folder: Path, prediction: Path, reference: Path, **options: object) -> StudyScores:
    table = folder / "table.json"
    table.write_text(json.dumps({"left": 1, "right": 2, "both": [1, 2], "absent": 7}))
    return measure_pair(Pair("s", prediction, reference), read_regions(table), Options(**options))


def test_scores_are_those_of_the_metrics_on_the_grid(tmp_path: Path) -> None:
    ours, theirs = two_balls(shift=2), two_balls()
    files = save(tmp_path / "p.nii.gz", ours), save(tmp_path / "r.nii.gz", theirs)
    scores = measured(tmp_path, *files, lesions=True, centreline=True)
    left, both = scores.values["left"], scores.values["both"]
    assert left["dice"] == pytest.approx(dice(ours == 1, theirs == 1))
    assert left["hd95_mm"] == pytest.approx(hd95(ours == 1, theirs == 1, (1, 1.5, 2)))
    assert left["volume_reference_ml"] == pytest.approx(np.sum(theirs == 1) * 3 / 1000)
    assert both["dice"] == pytest.approx(dice(ours > 0, theirs > 0))
    assert both["lesion_hd95_mm"] == pytest.approx(lesion_scores(ours > 0, theirs > 0, (1, 1.5, 2)).hd95)
    assert 0 < left["centreline_dice"] <= 1
    assert scores.presence == {"left": "both", "right": "both", "both": "both", "absent": "neither"}
    assert np.isnan(scores.values["absent"]["dice"])


def test_one_sided_structures_and_unnamed_values(tmp_path: Path) -> None:
    ours, theirs = two_balls(), two_balls()
    ours[ours == 2] = 0
    ours[0, 0, 0] = 5
    (tmp_path / "p.json").write_text(json.dumps({"labels": {"1": "left", "2": "right", "5": "more"}}))
    theirs[0, 0, 0] = 6
    scores = measured(tmp_path, save(tmp_path / "p.nii", ours), save(tmp_path / "r.nii", theirs))
    assert scores.presence["right"] == "reference"
    assert scores.values["right"]["dice"] == 0
    assert scores.values["right"]["hd95_mm"] == np.inf
    assert scores.values["right"]["volume_error_percent"] == -100
    assert scores.notes[0] == "Values without a name were not compared: 6."


def test_a_structure_that_may_be_a_value_without_a_name_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    theirs = np.where(two_balls() == 2, 4, two_balls()).astype(np.uint8)
    ours, reference = save(tmp_path / "p.nii", two_balls()), save(tmp_path / "r.nii", theirs)
    (tmp_path / "p.json").write_text(json.dumps({"labels": {"1": "heart", "2": "lung"}}))
    with pytest.raises(StudyError, match=r"r\.nii: has no lung, but values without a name \(4\)"):
        measure_pair(Pair("s", ours, reference), None, Options())


def test_each_side_is_read_by_its_own_names(tmp_path: Path) -> None:
    theirs = np.where(two_balls() == 2, 4, two_balls()).astype(np.uint8)
    ours, reference = save(tmp_path / "p.nii", two_balls()), save(tmp_path / "r.nii", theirs)
    (tmp_path / "p.json").write_text(json.dumps({"labels": {"1": "heart", "2": "lung"}}))
    (tmp_path / "table.json").write_text(json.dumps({"heart": 1, "Lung": 4}))
    scores = measure_pair(Pair("s", ours, reference), read_regions(tmp_path / "table.json"), Options())
    assert {name: values["dice"] for name, values in scores.values.items()} == {"heart": 1, "Lung": 1}
    (tmp_path / "r.json").write_text(json.dumps({"heart": 1, "lung": 4}))
    scores = measure_pair(Pair("s", ours, reference), None, Options())
    assert {name: values["dice"] for name, values in scores.values.items()} == {"heart": 1, "lung": 1}


def test_regions_are_put_together_of_parts_that_have_names(tmp_path: Path) -> None:
    ours, reference = save(tmp_path / "p.nii", two_balls()), save(tmp_path / "r.nii", two_balls())
    (tmp_path / "p.json").write_text(json.dumps({"labels": {"1": "label 1", "2": "core"}}))
    table = tmp_path / "dataset.json"
    table.write_text(json.dumps({"labels": {"background": 0, "whole": [1, 2], "core": 2}}))
    scores = measure_pair(Pair("s", ours, reference), read_regions(table), Options())
    assert {name: values["dice"] for name, values in scores.values.items()} == {"whole": 1, "core": 1}


def test_what_nobody_labelled_is_not_compared(tmp_path: Path) -> None:
    theirs = two_balls()
    theirs[:16][theirs[:16] > 0] = 9
    ours, reference = save(tmp_path / "p.nii", two_balls()), save(tmp_path / "r.nii", theirs)
    table = read_regions(_written(tmp_path, {"labels": {"left": 1, "right": 2, "ignore": 9}}))
    assert [region.name for region in table] == ["left", "right", "ignore"]
    scores = measure_pair(Pair("s", ours, reference), table[:2], Options(ignore=9))
    assert scores.values["right"]["dice"] == 1 and scores.presence["left"] == "neither"


def test_a_manifest_is_a_table_too(tmp_path: Path) -> None:
    content = {
        "labels": {"1": "liver", "4": "cyst"}, "regions": {"all": ["liver", "cyst"]},
        "layouts": [{"images": "{case}.nii"}],
    }  # fmt: skip
    regions = read_regions(_written(tmp_path, content))
    assert [(r.name, r.values) for r in regions] == [("liver", (1,)), ("cyst", (4,)), ("all", (1, 4))]


def _written(folder: Path, content: dict) -> Path:
    (folder / "own.json").write_text(json.dumps(content))
    return folder / "own.json"


def test_formats_may_differ_where_grids_agree(tmp_path: Path) -> None:
    reference = save(tmp_path / "r.nii.gz", two_balls())
    image = sitk.ReadImage(str(reference))
    sitk.WriteImage(image, str(tmp_path / "p.nrrd"))
    assert measured(tmp_path, tmp_path / "p.nrrd", reference).values["left"]["dice"] == 1


@pytest.mark.parametrize("change", ["moved", "flipped", "cropped", "coarser"])
def test_other_grids_are_refused(tmp_path: Path, change: str) -> None:
    labels, affine = two_balls(), AFFINE.copy()
    if change == "moved":
        affine[2, 3] = 0.5
    elif change == "flipped":
        affine[0, 0] = 1
    elif change == "cropped":
        labels = labels[:-1]
    else:
        affine[1, 1] = 3
    prediction = save(tmp_path / "p.nii.gz", labels, affine)
    with pytest.raises(StudyError, match="another grid") as caught:
        measured(tmp_path, prediction, save(tmp_path / "r.nii.gz", two_balls()))
    assert caught.value.code == "other-grid"
    assert caught.value.path == prediction


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 0, 2)])
def test_axes_stored_otherwise_are_turned(tmp_path: Path, axes: tuple[int, ...]) -> None:
    turned = np.flip(two_balls().transpose(axes), 0)
    back = np.zeros((4, 4))
    back[axes, range(3)] = 1, 1, 1
    back[axes[0], 0], back[axes[0], 3], back[3, 3] = -1, turned.shape[0] - 1, 1
    prediction = save(tmp_path / "p.nii.gz", np.ascontiguousarray(turned), AFFINE @ back)
    reference = save(tmp_path / "r.nii.gz", two_balls())
    assert measured(tmp_path, prediction, reference).values["both"]["dice"] == 1


def test_rounding_of_headers_is_no_other_grid(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 3] = 0.004
    files = save(tmp_path / "p.nii.gz", two_balls(), affine), save(tmp_path / "r.nii.gz", two_balls())
    assert measured(tmp_path, *files).values["both"]["dice"] == 1


@pytest.mark.parametrize("value", [0.5, -1.0, 70000.0])
def test_probabilities_are_no_label_map(tmp_path: Path, value: float) -> None:
    prediction = save(tmp_path / "p.nii.gz", np.full((4, 4, 4), value, np.float32))
    with pytest.raises(StudyError, match="not a label map"):
        measured(tmp_path, prediction, prediction)


def test_names_come_from_beside_the_label_map_or_are_the_values(tmp_path: Path) -> None:
    files = save(tmp_path / "p.nii.gz", two_balls()), save(tmp_path / "r.nii.gz", two_balls())
    pair = Pair("s", *files)
    assert list(measure_pair(pair, None, Options()).values) == ["label 1", "label 2"]
    (tmp_path / "p.json").write_text(json.dumps({"labels": {"1": "heart", "2": "lung"}}))
    assert list(measure_pair(pair, None, Options()).values) == ["heart", "lung"]


def test_tables_in_every_form(tmp_path: Path) -> None:
    names = [s.name for s in load_label_table("brain")]
    assert [r.name for r in read_regions("brain")] == names
    file = tmp_path / "t.json"
    for content in (
        {"structures": [{"name": "heart"}, {"name": "lung"}], "name": "chest"},
        {"labels": {"background": 0, "heart": 1, "lung": 2}, "channel_names": {"0": "CT"}},
        {"0": "background", "1": "heart", "2": "lung"},
        {"heart": [1], "lung": [2]},
    ):
        file.write_text(json.dumps(content))
        assert [(r.name, r.values) for r in read_regions(file)] == [("heart", (1,)), ("lung", (2,))]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"a": -1}', '{"a": "b"}', '{"a": []}', '{"a": 1.5}'])
def test_broken_tables_are_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(content)
    with pytest.raises(MedvitError, match=r"broken\.json"):
        read_regions(file)
    with pytest.raises(MedvitError, match="neither a file nor a label table"):
        read_regions("no such table")
