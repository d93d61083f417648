"""`medvit evaluate` from files to files, with exit codes that tell the truth."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medvit.cli.app import app
from medvit.errors import MedvitError
from medvit.evaluation import Options, evaluate
from tests.evaluation.cohort import AFFINE, save, two_balls, write_cohort


def test_files_agree_with_each_other(tmp_path: Path) -> None:
    pred, ref = write_cohort(tmp_path)
    assert evaluate(pred, ref, tmp_path / "out", options=Options(tolerance=2.0)).exit_code == 0
    with (tmp_path / "out" / "evaluation.csv").open() as file:
        lines = list(csv.DictReader(file))
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [(line["study"], line["structure"]) for line in lines] == [
        (f"case_{i}", f"label {n}") for i in range(3) for n in (1, 2)
    ]
    assert lines[0]["dice"] == "1"
    mean = sum(float(line["dice"]) for line in lines if line["structure"] == "label 2") / 3
    summary = {(s["structure"], s["metric"]): s for s in content["summary"]}
    assert summary["label 2", "dice"]["mean"] == pytest.approx(mean, abs=1e-5)
    assert content["studies"][2]["structures"]["label 2"]["hd95_mm"] == pytest.approx(3.0)
    assert content["options"]["tolerance"] == 2.0
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert f"{mean:.3f}" in page
    assert page.count("<circle") == 3 * 2 * 4  # in three drawings of scores and one of volumes
    assert not re.search(r"(src|href)=|https?:", page)


def test_without_a_folder_the_table_is_printed(tmp_path: Path) -> None:
    pred, ref = write_cohort(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["evaluate", str(pred), str(ref)])
    assert done.exit_code == 0 and "label 2" in done.output and "3 of 3 studies compared" in done.output
    assert sorted(tmp_path.rglob("*")) == before


def test_a_structure_on_one_side_only_has_an_infinite_distance(tmp_path: Path) -> None:
    pred, ref = write_cohort(tmp_path, studies=1)
    save(pred / "case_0" / "labels.nii.gz", np.where(two_balls() == 2, 0, two_balls()).astype(np.uint8))
    done = CliRunner().invoke(app, ["evaluate", str(pred), str(ref), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0 and "∞" in done.output and "nan" not in done.output
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "∞" in page and "nan" not in page


def test_a_failure_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    pred, ref = write_cohort(tmp_path)
    moved = AFFINE.copy()
    moved[0, 3] = 9
    save(pred / "case_1" / "labels.nii.gz", two_balls(), moved)
    (pred / "case_2" / "labels.nii.gz").write_bytes(b"not an image")
    save(ref / "case_9.nii.gz", two_balls())
    assert evaluate(pred, ref, tmp_path / "out").exit_code == 3
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [s["study"] for s in content["studies"]] == ["case_0"]
    codes = {f["study"]: f["code"] for f in content["failures"]}
    assert codes["case_1"] == "other-grid"
    assert codes["case_9"] == "no-prediction"
    assert "case_2" in codes
    assert "another grid" in (tmp_path / "out" / "evaluation.html").read_text()
    assert "not compared" in (tmp_path / "out" / "evaluation.csv").read_text()


def test_many_references_without_a_prediction_take_one_line(tmp_path: Path) -> None:
    pred, ref = write_cohort(tmp_path, studies=1)
    for number in range(5, 9):
        save(ref / f"case_{number}.nii.gz", two_balls())
    (pred / "case_0" / "labels.nii.gz").write_bytes(b"not an image")
    done = CliRunner().invoke(app, ["evaluate", str(pred), str(ref)])
    failed = [line for line in done.output.splitlines() if line.startswith("FAILED")]
    assert done.exit_code == 3 and len(failed) == 2 and failed[0].startswith("FAILED case_0: ")
    assert failed[1].startswith("FAILED case_5, case_6, case_7 and 1 more: have no prediction")


def test_everything_fails_and_nothing_is_there(tmp_path: Path) -> None:
    pred, ref = write_cohort(tmp_path, studies=1)
    (tmp_path / "empty").mkdir()
    assert evaluate(tmp_path / "empty", ref, tmp_path / "out").exit_code == 3
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["summary"] == []
    assert evaluate(tmp_path / "empty", tmp_path / "empty", tmp_path / "nothing").exit_code == 2
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(MedvitError, match="tolerance"):
        evaluate(pred, ref, tmp_path / "out", options=Options(tolerance=-1))


def test_structures_missing_everywhere_or_on_one_side_draw_nothing_wrong(tmp_path: Path) -> None:
    labels = two_balls()
    labels[labels == 2] = 0
    pred = save(tmp_path / "p" / "case.nii.gz", labels)
    ref = save(tmp_path / "r" / "case.nii.gz", two_balls())
    table = tmp_path / "t.json"
    table.write_text(json.dumps({"<b>left</b>": 1, "right": 2, "absent": 3}))
    assert evaluate(pred, ref, tmp_path / "out", labels=table).exit_code == 0
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "&lt;b&gt;left" in page
    assert "<b>left" not in page
    assert not re.search(r"\b(nan|inf)\b", page)
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    right = content["studies"][0]["structures"]["right"]
    assert (right["presence"], right["dice"], right["hd95_mm"]) == ("reference", 0, None)


def test_the_command(tmp_path: Path) -> None:
    pred, ref = write_cohort(tmp_path, studies=2)
    command = [
        "evaluate",
        str(pred),
        str(ref),
        "-o",
        str(tmp_path / "out"),
        "--tolerance",
        "1.5",
        "--lesions",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert "2 of 2 studies compared" in done.output
    header = (tmp_path / "out" / "evaluation.csv").read_text().splitlines()[0]
    assert "lesion_f1" in header
    assert "centreline" not in header
