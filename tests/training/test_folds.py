"""`medvit train --folds`: folds by patient, their table, and an ensemble that runs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from medvit.bundles import Bundle, open_bundle
from medvit.errors import MedvitError
from medvit.networks import Ensemble
from medvit.runs import run_bundle
from medvit.training import Choices, split_cases, train_folds
from tests.training.cases import QUICK, base_bundle, write_data


def test_every_case_is_held_out_once_and_no_patient_is_on_both_sides(tmp_path: Path) -> None:
    manifest = write_data(tmp_path, 6)
    content = json.loads(manifest.read_text())
    for number, case in enumerate(content["cases"]):
        case["id"] = f"sub-{number // 2}_ses-{number % 2}"
    content["splits"] = {"validation": ["sub-0_ses-0"]}
    manifest.write_text(json.dumps(content))
    held_out = []
    for fold in range(3):
        split = split_cases(manifest, folds=3, fold=fold, seed=4)
        people = [{case.id.split("_")[0] for case in part} for part in (split.training, split.validation)]
        assert not people[0] & people[1] and len(people[0] | people[1]) == 3
        held_out += [case.id for case in split.validation]
    assert sorted(held_out) == sorted(case["id"] for case in content["cases"])
    with pytest.raises(MedvitError, match="3 patients cannot be divided into 4 folds"):
        split_cases(manifest, folds=4)
    with pytest.raises(MedvitError, match="numbered from 0"):
        split_cases(manifest, folds=3, fold=3)


def test_folds_become_bundles_a_table_and_an_ensemble_that_runs(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 2)
    base, output = base_bundle(tmp_path / "base"), tmp_path / "out"
    # One fold by itself, as on another machine; then the rest.
    alone = train_folds(base, data, output, Choices(**QUICK, folds=2, fold=1))
    assert isinstance(alone, Bundle) and alone.path.name == "fold1" and not (output / "ensemble").exists()
    before = alone.weights.stat().st_mtime_ns
    ensemble = train_folds(base, data, output, Choices(**QUICK, folds=2), resume=True)
    assert isinstance(ensemble, Bundle) and ensemble.path.name == "ensemble"
    assert alone.weights.stat().st_mtime_ns == before, "a finished fold is not trained again"
    with (output / "cross_validation.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["fold"], row["case"]) for row in rows} in (
        {("0", "case0"), ("1", "case1")}, {("0", "case1"), ("1", "case0")}
    )  # fmt: skip
    figures = ensemble.metadata["eval_metrics"]
    for name in ("low box", "high box"):
        mean = np.mean([float(row[name]) for row in rows])
        assert figures[f"dice_{name.replace(' ', '_')}"] == pytest.approx(mean, abs=1e-4)
        assert mean == pytest.approx(
            np.mean([Bundle(output / f"fold{n}").metadata["eval_metrics"][f"dice_{name.replace(' ', '_')}"]
                     for n in range(2)]), abs=1e-3,
        )  # fmt: skip
    assert "high box" in (output / "cross_validation.html").read_text()
    assert "not trained on it" in (ensemble.path / "docs" / "README.md").read_text()
    network = open_bundle(ensemble).part("network")
    assert isinstance(network, Ensemble) and len(network.networks) == 2
    own = open_bundle(Bundle(output / "fold1")).part("network").state_dict()
    assert all((network.networks[1].state_dict()[name] == value).all() for name, value in own.items())
    assert run_bundle(ensemble, [data.parent / "case1_0000.nii.gz"], tmp_path / "run", report=False) == 0
    assert np.asarray(nib.load(tmp_path / "run" / "case1_0000" / "labels.nii.gz").dataobj).any()
    with pytest.raises(MedvitError, match="exists already"):
        train_folds(base, data, output, Choices(**QUICK, folds=2))


def test_too_many_folds_are_refused_before_anything_is_said(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 2)
    console = Console(file=io.StringIO())
    with pytest.raises(MedvitError, match="cannot be divided into 9 folds"):
        train_folds(base_bundle(tmp_path / "b"), data, tmp_path / "o", Choices(folds=9), console=console)
    assert console.file.getvalue() == "" and not (tmp_path / "o").exists()
