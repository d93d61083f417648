"""`medvit cohort` and `medvit run` set a bundle alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import medvit.runs
from medvit.bundles import find_bundle
from medvit.cli.app import app

OPTIONS = [
    "--device", "cpu", "--overlap", "0.25", "--tta", "--no-report", "--pdf", "--dicom", "--deidentify",
    "--viewer", "--language", "de", "--show-patient",
]  # fmt: skip
SETTINGS = {
    "overlap": 0.25, "tta": True, "report": False, "pdf": True, "dicom": True, "deidentify": True,
    "viewer": True, "language": "de", "show_patient": True, "device": "$torch.device('cpu')",
}  # fmt: skip


def settings_of(verb: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def take(*_: object, **given: Any) -> int:
        seen.update(given)
        return 0

    monkeypatch.setattr(medvit.runs, "run_bundle", take)
    monkeypatch.setattr(medvit.runs, "run_cohort", take)
    done = CliRunner().invoke(app, [verb, "segformer3d_brain", ".", "-o", "out", *options])
    assert done.exit_code == 0, done.output
    return seen


def test_run_and_cohort_set_a_bundle_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    run, cohort = (settings_of(verb, monkeypatch, *OPTIONS) for verb in ("run", "cohort"))
    known = json.loads(Path(find_bundle("segformer3d_brain").config("inference")).read_text())
    assert SETTINGS.keys() <= known.keys()
    assert SETTINGS.items() <= run.items()
    assert SETTINGS.items() <= cohort.items()


def test_what_depends_on_the_bundle_is_set_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = json.loads(Path(find_bundle("segformer3d_brain").config("inference")).read_text())["overlap"]
    for verb in ("run", "cohort"):
        seen = settings_of(
            verb, monkeypatch, "--structures", "hippocampus, left_amygdala", "--separate", "--fast",
            "--seg-type", "labelmap", "--rtstruct",
        )  # fmt: skip
        assert seen["overlap"] == usual / 2 and seen["writer#settings#fast"] is True
        options = {name.removeprefix("writer#options#"): value for name, value in seen.items()}
        assert [name.strip() for name in options["structures"]] == ["hippocampus", "left_amygdala"]
        assert options["separate"] is True and options["rtstruct"] is True
        assert options["seg_type"] == "labelmap"
