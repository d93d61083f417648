"""The results of a bundle: what is optional costs nothing else, and a red study gets no DICOM results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import run as monai_run
from monai.data import MetaTensor

from medvit.bundles import Bundle, find_bundle
from medvit.errors import MedvitError, StudyError
from medvit.runs import ResultOptions, StudyOutcome, StudyWriter, run_bundle
from medvit.runs.bundle_work import BundleWork
from medvit.studies.in_memory import study_in_memory
from tests.label.phantoms import make_bundle, make_restorer, phantom, steps
from tests.studies.dicom_out.synthetic import write_series

ROOT = Path(__file__).parents[2]


def write_image(path: Path, shift: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(phantom((20, 24, 22), shift=shift), np.diag([4.0, 4, 4, 1])), path)
    return path


def run(bundle: Path, study: Path, output: Path, **options: Any) -> tuple[int, dict[str, Any], Path]:
    given = {f"writer#options#{name}": value for name, value in options.items()}
    code = run_bundle(Bundle(bundle), [study], output, **given)
    (entry,) = json.loads((output / "run.json").read_text())["studies"]
    return code, entry, output / entry["study"]


@pytest.fixture
def restorer(tmp_path: Path) -> Path:
    return make_restorer(tmp_path / "restorer")


@pytest.mark.parametrize(
    ("structures", "missing"),
    [
        (
            ["left hippocampal head"],
            "left hippocampal head cannot be distinguished in this study, which shows hippocampal head, "
            "hippocampal body and tail",
        ),
        (["hippocampal head"], None),
    ],
)
def test_structures_that_a_study_cannot_show_are_missing(
    structures: list[str], missing: str | None, tmp_path: Path
) -> None:
    bundle = find_bundle("segformer3d_hippocampus")
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1:3], labels[3:5] = 1, 2  # of a crop, whose side is not known
    study = study_in_memory(labels.astype(np.float32), np.eye(4))
    outcome = StudyOutcome(study.id, inputs=["digest"])
    options = ResultOptions(report=False, structures=structures)
    writer = StudyWriter(tmp_path, bundle.path, bundle.weights, options=options)
    writer.write(study, MetaTensor(torch.from_numpy(labels)[None], affine=torch.eye(4)), outcome)
    assert outcome.missing.get("structures") == missing
    kept = np.asarray(nib.load(tmp_path / study.id / "labels.nii.gz").dataobj)
    assert np.unique(kept).tolist() == ([0] if missing else [0, 1])


def test_a_report_that_cannot_be_written_costs_the_report(
    restorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no font")

    monkeypatch.setattr("medvit.reports.write_pdf", fail)
    study = write_image(tmp_path / "study.nii.gz")
    for event in ("done", "kept"):
        code, entry, folder = run(restorer, study, tmp_path / "out", pdf=True, report=True)
        assert (code, entry["status"]) == (3, "done"), event
        assert entry["missing"] == {"report.pdf": "ValueError: no font"}
        assert {p.name for p in folder.iterdir()} >= {"image.nii.gz", "measurements.json", "report.html"}
        said = capsys.readouterr()
        assert "missing report.pdf: ValueError: no font" in said.out
        assert "1 of 1 studies done (" in said.out and "1 without all outputs)" in said.out
    assert "no font" in (tmp_path / "out" / "cohort.csv").read_text()


def test_measurements_that_fail_leave_the_label_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no measure")

    monkeypatch.setattr("medvit.reports.make_report", fail)
    bundle = make_bundle(tmp_path / "bundle")
    code, entry, folder = run(bundle, write_image(tmp_path / "study.nii.gz"), tmp_path / "out")
    assert (code, entry["status"], entry["light"]) == (3, "done", "")
    assert "no measure" in entry["missing"]["measurements and report"]
    assert (folder / "labels.nii.gz").is_file()


def test_a_red_study_sends_no_dicom_unless_asked_to(tmp_path: Path) -> None:
    write_series(tmp_path / "series", (40, 36, 20), modality="MR")
    bundle = make_bundle(tmp_path / "bundle")
    code, entry, folder = run(bundle, tmp_path / "series", tmp_path / "out", dicom=True)
    assert (code, entry["status"], entry["light"]) == (3, "done", "red")
    assert "--dicom-anyway" in entry["missing"]["dicom"] and entry["finding"] in entry["missing"]["dicom"]
    assert not (folder / "dicom").exists()
    code, entry, folder = run(bundle, tmp_path / "series", tmp_path / "out", dicom=True, dicom_anyway=True)
    assert (code, entry["missing"]) == (3, {})
    assert (folder / "dicom" / "seg.dcm").is_file()


def test_dicom_that_cannot_be_made_is_said_before_inference(
    restorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise StudyError("dicom-out-no-place", "has no StudyInstanceUID")

    write_series(tmp_path / "series", (40, 36, 6), modality="MR")
    monkeypatch.setattr("medvit.studies.dicom_out.source._frames", refuse)
    code, entry, folder = run(restorer, tmp_path / "series", tmp_path / "out", dicom=True)
    assert (code, entry["status"]) == (3, "done")
    assert "StudyInstanceUID" in entry["missing"]["dicom"]
    said = capsys.readouterr().err
    assert said.index("DICOM results cannot be made") < said.index("] done ")
    assert (folder / "image.nii.gz").is_file() and not (folder / "dicom").exists()


def test_monai_bundle_run_is_the_same_runner(
    restorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def monai(study: Path) -> int:
        config, output = restorer / "configs" / "inference.json", tmp_path / "out"
        try:
            monai_run(
                config_file=str(config), bundle_root=str(restorer), input=str(study), output_dir=str(output)
            )
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    study = write_image(tmp_path / "in" / "study.nii.gz")
    first = monai(study)
    assert "1 of 1 studies done" in capsys.readouterr().out
    mark = (tmp_path / "out" / "study" / "done.json").read_bytes()
    # `medvit run` keeps what it did, and refuses another input of the same name.
    code, entry, _ = run(restorer, study, tmp_path / "out")
    assert (code, entry["run"]) == (first, 1)
    write_image(study, shift=3)
    assert monai(study) == 3
    assert (tmp_path / "out" / "study" / "done.json").read_bytes() == mark
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(record["runs"]) == 3 and record["failures"][0]["code"] == "other-results"


def test_a_run_that_is_interrupted_says_what_is_kept(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import signal\nimport sys\nfrom pathlib import Path\n"
        "from tests.runs.standin import StandIn, make_studies, run\n"
        "if __name__ == '__main__':\n"
        # A shell's background job ignores the signal, and hands that down to the tests.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    found = make_studies(Path(sys.argv[1]), {'a': 'ok 0 a', 'b': 'ok 60 b'})\n"
        "    sys.exit(run(StandIn(Path(sys.argv[2])), found, workers=1))\n"
    )
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "in", output], env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    while "done a" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted; finished studies are kept" in said and "1 of 2 studies done" in said
    assert "Traceback" not in errors
    record = json.loads((output / "run.json").read_text())
    assert [s["study"] for s in record["studies"]] == ["a"]
    assert (record["runs"][0]["exit_code"], record["runs"][0]["not_reached"]) == (130, ["b"])
    assert sorted(p.name for p in output.iterdir() if p.is_dir()) == [".cohort", "a"]


def test_a_stopped_run_ends_at_the_next_window(restorer: Path, tmp_path: Path) -> None:
    work = BundleWork(Bundle(restorer), tmp_path / "out")
    (study,) = work.find([write_image(tmp_path / "study.nii.gz")]).studies
    work.open()
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        work.stop()

    work.watch_windows(stop)
    from medvit.runs import attempt

    outcome = attempt(work, study).outcome
    assert outcome.status == "failed" and "interrupted" in outcome.error
    assert len(seen) == 1 and seen[0][1] > 1
    assert not (tmp_path / "out" / "study").exists()


def test_broken_weights_are_one_sentence(restorer: Path, tmp_path: Path) -> None:
    broken = restorer / "models" / "model.safetensors"
    broken.write_bytes(b"\x20\0\0\0\0\0\0\0{ not whole")
    study = write_image(tmp_path / "study.nii.gz")
    with pytest.raises(MedvitError, match=r"model\.safetensors: not a complete safetensors file"):
        run_bundle(Bundle(restorer), [study], tmp_path / "out", checkpoint=str(broken))


def test_chosen_structures_alone_are_written(tmp_path: Path) -> None:
    bundle, study = make_bundle(tmp_path / "bundle"), write_image(tmp_path / "study.nii.gz")
    table = Bundle(bundle).label_table
    assert table is not None
    first, _, third = table.structures[:3]
    _, _, whole = run(bundle, study, tmp_path / "whole")
    _, entry, part = run(
        bundle, study, tmp_path / "part", structures=[first.name, third.name], separate=True, report=True
    )  # fmt: skip
    assert entry["missing"] == {}
    expected = np.asarray(nib.load(whole / "labels.nii.gz").dataobj)
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    written = np.asarray(nib.load(part / "labels.nii.gz").dataobj)
    np.testing.assert_array_equal(written, np.where(np.isin(expected, (1, 3)), expected, 0))
    names = json.loads((part / "labels.json").read_text())["labels"]
    assert names == {"1": first.name, "3": third.name}
    masks = {p.name: np.asarray(nib.load(p).dataobj) for p in (part / "structures").iterdir()}
    assert masks.keys() == {f"{s.name.replace(' ', '_')}.nii.gz" for s in (first, third)}
    for s in (first, third):
        np.testing.assert_array_equal(masks[f"{s.name.replace(' ', '_')}.nii.gz"], expected == s.value)
    ours, theirs = (json.loads((f / "measurements.json").read_text()) for f in (part, whole))
    assert ours["structures"] == [s for s in theirs["structures"] if s["value"] in (1, 3)]
    # What is said of the study goes by the whole label map.
    for key in ("whole", "totals", "quality"):
        assert ours[key] == theirs[key]
    page = (part / "report.html").read_text()
    assert ours["provenance"]["settings"]["structures"] == [first.name, third.name]
    assert f"structures {first.name}, {third.name}" in page


def test_a_restorer_has_no_structures_to_choose(restorer: Path, tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="restores images and has no structures"):
        run(restorer, write_image(tmp_path / "study.nii.gz"), tmp_path / "out", separate=True)


def test_dicom_results_are_of_the_kind_and_the_structures_asked_for(tmp_path: Path) -> None:
    write_series(tmp_path / "series", (40, 36, 6), modality="MR")
    bundle = make_bundle(tmp_path / "bundle", state=steps(31, 0.01))
    asked = {"dicom": True, "dicom_anyway": True, "seg_type": "labelmap", "rtstruct": True}
    _, entry, folder = run(bundle, tmp_path / "series", tmp_path / "whole", **asked)
    assert entry["missing"] == {}
    values = set(np.unique(np.asarray(nib.load(folder / "labels.nii.gz").dataobj))) - {0}
    assert len(values) > 1
    value = int(min(values))
    table = Bundle(bundle).label_table
    assert table is not None
    name = table.structures[value - 1].name
    _, entry, folder = run(bundle, tmp_path / "series", tmp_path / "one", **asked, structures=[name])
    assert entry["missing"] == {}
    seg = pydicom.dcmread(folder / "dicom" / "seg.dcm")
    assert seg.SegmentationType == "LABELMAP"
    assert set(np.unique(seg.pixel_array)) == {0, value}
    contours = pydicom.dcmread(folder / "dicom" / "rtstruct.dcm")
    assert [roi.ROIName for roi in contours.StructureSetROISequence] == [name]
    report = pydicom.dcmread(folder / "dicom" / "sr.dcm")
    assert sum(element.keyword == "MeasuredValueSequence" for element in report.iterall()) == 1
