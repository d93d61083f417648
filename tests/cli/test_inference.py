"""`medvit cohort` and `medvit run` set a bundle alike."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import medvit.runs
from medvit.bundles import find_bundle, installed_bundles, open_bundle
from medvit.cli.app import app
from medvit.cli.options import fit_settings

OPTIONS = [
    "--device", "cpu", "--overlap", "0.25", "--tta", "--no-report", "--pdf", "--dicom", "--deidentify",
    "--viewer", "--language", "de", "--show-patient",
]  # fmt: skip
SETTINGS = {
    "overlap": 0.25, "tta": True, "report": False, "pdf": True, "dicom": True, "deidentify": True,
    "viewer": True, "language": "de", "show_patient": True, "device": "$torch.device('cpu')",
}  # fmt: skip

GUT = {"value": "7199", "meaning": "Gut", "scheme": "FMA"}


def settings_of(verb: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def take(*_: object, **given: Any) -> int:
        seen.update(given)
        return 2  # nothing to do, so there is no record

    monkeypatch.setattr(medvit.runs, "run_bundle", take)
    monkeypatch.setattr(medvit.runs, "run_cohort", take)
    done = CliRunner().invoke(app, [verb, "segformer3d_brain", ".", "-o", "out", *options])
    assert done.exit_code == 2, done.output
    return seen


def test_run_and_cohort_set_a_bundle_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    run, cohort = (settings_of(verb, monkeypatch, *OPTIONS) for verb in ("run", "cohort"))
    known = json.loads(Path(find_bundle("segformer3d_brain").config("inference")).read_text())
    assert SETTINGS.keys() <= known.keys()
    assert SETTINGS.items() <= run.items()
    assert SETTINGS.items() <= cohort.items()


def test_mirrored_passes_are_the_bundles_own_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tta" not in settings_of("run", monkeypatch)
    assert settings_of("run", monkeypatch, "--tta")["tta"] is True
    for option in ("--no-tta", "--fast"):
        assert settings_of("run", monkeypatch, option)["tta"] is False


def test_what_depends_on_the_bundle_is_set_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in ("run", "cohort"):
        seen = settings_of(
            verb, monkeypatch, "--structures", "hippocampus, left_amygdala", "--separate",
            "--dicom", "--seg-type", "labelmap", "--rtstruct",
        )  # fmt: skip
        options = {name.removeprefix("writer#options#"): value for name, value in seen.items()}
        assert [name.strip() for name in options["structures"]] == ["hippocampus", "left_amygdala"]
        assert options["separate"] is True and options["rtstruct"] is True
        assert options["seg_type"] == "labelmap"


def test_fast_overlaps_less_where_that_saves_windows_and_else_says_that_it_does_nothing() -> None:
    quick: dict[str, Any] = {"writer#settings#fast": True}
    fit_settings(find_bundle("swin_unetr_brain"), quick)
    assert quick == {"writer#settings#fast": True, "overlap": 0.25}
    for bundle in installed_bundles():
        usual = json.loads(bundle.config("inference").read_text())["overlap"]
        settings: dict[str, Any] = {"writer#settings#fast": True}
        with redirect_stderr(io.StringIO()) as said:
            fit_settings(bundle, settings)
        assert ("does nothing" in said.getvalue()) == (usual <= 0.25) == (settings == {})


def test_precision_reaches_the_inferer_and_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in ("run", "cohort"):
        assert not [name for name in settings_of(verb, monkeypatch) if "execution" in name]
        seen = settings_of(verb, monkeypatch, "--amp", "bf16", "--tf32")
        opened = open_bundle(find_bundle("segformer3d_brain"), input=[], **{
            name: value for name, value in seen.items() if "#" in name
        })  # fmt: skip
        execution = opened.part("inferer").execution
        assert (execution.amp, execution.tf32) == ("bf16", True)
        assert opened.part("writer").settings.items() >= {"amp": "bf16", "tf32": True}.items()


def test_the_backend_reaches_the_inferer_and_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = settings_of("run", monkeypatch, "--backend", "openvino", "--amp", "bf16")
    opened = open_bundle(find_bundle("segformer3d_brain"), input=[], **{
        name: value for name, value in seen.items() if "#" in name
    })  # fmt: skip
    assert (opened.part("inferer").execution.backend, opened.part("writer").settings["backend"]) == (
        "openvino",
        "openvino",
    )


@pytest.mark.parametrize("verb", ["run", "cohort"])
@pytest.mark.parametrize("option", ["", "-v", "-q", "--json"])
def test_a_run_says_what_was_asked_for(
    verb: str, option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    silent: list[bool] = []

    def chatty(_: object, __: object, output: Path, **settings: Any) -> int:
        assert "talk" not in settings
        output.mkdir()
        (output / "run.json").write_text('{"schema_version": "2.0"}')
        print("a table")
        print("progress", file=sys.stderr)
        warnings.warn("a library's warning", stacklevel=1)
        logging.getLogger("monai.apps").warning("a library's log line")
        silent.append(bool(os.environ.get("MEDVIT_SILENT_LIBRARIES")))
        return 3

    monkeypatch.setattr(medvit.runs, f"run_{'bundle' if verb == 'run' else 'cohort'}", chatty)
    handler = logging.StreamHandler(log := io.StringIO())
    logging.getLogger("monai.apps").addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        arguments = [verb, "segformer3d_brain", ".", "-o", str(tmp_path / "out"), *filter(None, [option])]
        done = CliRunner().invoke(app, arguments)
    logging.getLogger("monai.apps").removeHandler(handler)
    assert done.exit_code == 3 and logging.root.manager.disable == 0
    loud = option == "-v"
    assert (bool(log.getvalue()), bool(caught), silent) == (loud, loud, [not loud])
    assert ("progress" in done.stderr) == (option != "-q")
    if option == "--json":
        assert json.loads(done.stdout) == {"schema_version": "2.0"}
    else:
        assert ("a table" in done.stdout) == (option != "-q")
    if option == "-q":
        record = tmp_path / "out" / "run.json"
        assert done.stderr == f"medvit: ended with exit code 3; {record} says why\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("run segformer3d_brain . --structures left_hippocampus,amyg", "left_hippocampus,amygdala"),
        ("run segformer3d_brain . --device cu", "cuda"),
        ("run segformer3d_brain . --language d", "de"),
        ("run segformer3d_brain . --seg-type lab", "labelmap"),
        ("export segformer3d_brain --format tor", "torchscript"),
        ("deidentify . --dates sh", "shift"),
    ],
)
def test_values_of_options_are_completed(typed: str, offered: str) -> None:
    typed = f"medvit {typed}"
    environment = {
        "_MEDVIT_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    done = CliRunner().invoke(app, [], prog_name="medvit", env=environment)
    assert offered in done.stdout.split()


def test_bundles_and_folders_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "segmenters").mkdir()
    monkeypatch.chdir(tmp_path)
    environment = {"_MEDVIT_COMPLETE": "complete_bash", "COMP_WORDS": "medvit run seg", "COMP_CWORD": "2"}
    done = CliRunner().invoke(app, [], prog_name="medvit", env=environment)
    offered = done.stdout.split()
    assert "segformer3d_brain" in offered and "segmenters/" in offered
    assert all(name.startswith("seg") for name in offered)


def test_the_list_shows_figures_of_one_test_set_in_one_column() -> None:
    head, *lines = CliRunner().invoke(app, ["list"]).stdout.splitlines()
    rows = {line.split()[0]: line for line in lines[: lines.index("")]}
    for bundle in json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout):
        for test, dice in bundle["dice"].items():
            shown = rows.get(bundle["name"], "")[head.index(test) : head.index(test) + len(test)].strip()
            assert shown == ("" if dice is None else f"{dice:.2f}")
    assert {"segformer3d_brain", "swin_unetr_brain"} <= rows.keys() and "rat_ct_denoise" not in rows


def test_private_codes_are_said_to_be_private(tmp_path: Path) -> None:
    table = {"name": "mine", "structures": [{"name": "liver"}, {"name": "gut", "code": GUT}]}
    metadata = {"version": "1", "task": "t", "medvit": {"labels": table}}
    (tmp_path / "mine" / "configs").mkdir(parents=True)
    (tmp_path / "mine" / "configs" / "metadata.json").write_text(json.dumps(metadata))
    said = CliRunner().invoke(app, ["info", str(tmp_path / "mine")]).stdout
    assert "liver  (private code LIVER)" in said and "gut  (FMA 7199)" in said
