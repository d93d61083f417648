"""A run over good and bad studies: every good one gets its results, every bad one its cause."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.bundles import Bundle, find_bundle
from medvit.errors import MedvitError, WeightsError
from medvit.networks import SegFormer3D, load_weights
from medvit.runs import ResultOptions, run_bundle, run_cohort
from medvit.runs.options import execution_settings
from medvit.studies.done_mark import read_mark
from medvit.training import save_weights
from tests.phantoms import COARSE

BUNDLE = find_bundle("segformer3d_brain")
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])


def volume(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 100, shape).astype(np.float32)


def write_good(path: Path, shape: tuple[int, ...] = (20, 24, 22)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume(*shape), AFFINE), path)
    return path


def truncated(path: Path) -> None:
    write_good(path)
    path.write_bytes(path.read_bytes()[:3000])


def not_finite(path: Path) -> None:
    voxels = volume(20, 24, 22)
    voxels[4] = np.nan
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "not_gzip": (lambda path: path.write_bytes(b"no image at all" * 100), "nifti"),
    "truncated": (truncated, "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "nifti"),
    "gzip_of_nothing": (lambda path: path.write_bytes(gzip.compress(b"")), "nifti"),
    "four_dimensional": (lambda path: write_good(path, (20, 24, 22, 5)), "nifti-4d"),
    "not_finite": (not_finite, "finite"),
}


def run(inputs: list[Path], output: Path, **overrides: object) -> tuple[int, dict]:
    overrides = {"report": False, "device": "$torch.device('cpu')", **COARSE, **overrides}
    code = run_bundle(BUNDLE, inputs, output, **overrides)
    record = output / "run.json"
    return code, json.loads(record.read_text()) if record.exists() else {}


@pytest.mark.parametrize("start", [run_bundle, run_cohort])
def test_what_the_device_lacks_is_refused_before_anything_is_made(start: Callable, tmp_path: Path) -> None:
    study, settings = write_good(tmp_path / "a.nii.gz"), execution_settings("fp16")
    with pytest.raises(MedvitError, match="fp16 needs a GPU"):
        start(BUNDLE, [str(study)], tmp_path / "out", device="$torch.device('cpu')", **settings)
    assert not (tmp_path / "out").exists()


def test_two_good_and_six_bad_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = tmp_path / "studies", tmp_path / "out"
    write_good(folder / "a_first.nii.gz")
    for name, (make, _) in BAD.items():
        make(folder / f"{name}.nii.gz")
    write_good(folder / "z_last.nii.gz")
    code, record = run([folder], output)
    assert code == 3
    causes = {failure["study"]: failure for failure in record["failures"]}
    assert set(causes) == set(BAD)
    for name, (_, expected) in BAD.items():
        assert expected in causes[name]["code"], causes[name]
        assert f"{name}.nii.gz" in causes[name]["error"]
    assert {s["study"] for s in record["studies"] if s["status"] == "done"} == {"a_first", "z_last"}
    assert sorted(p.name for p in output.iterdir() if p.is_dir()) == [".cohort", "a_first", "z_last"]
    rows = {row["study"]: row for row in csv.DictReader((output / "cohort.csv").open())}
    assert len(rows) == 8
    # Tables are passed on, and the path of a scan may hold a patient's name.
    assert (
        rows["truncated"]["cause"].startswith("truncated: ")
        and "nifti-truncated" in rows["truncated"]["cause"]
    )
    for table in ("cohort.csv", "cohort_long.csv", "cohort.html"):
        assert str(folder) not in (output / table).read_text()
    assert float(rows["z_last"]["brain-stem_ml"]) >= 0
    # Noise is not a brain: the verdict stands wherever a study is named.
    said = capsys.readouterr()
    assert "2 of 8 studies done (2 red)" in said.out
    done = {s["study"]: s for s in record["studies"] if s["status"] == "done"}
    for name, study in done.items():
        assert (study["light"], rows[name]["light"]) == ("red", "red") and rows[name]["finding"]
        assert study["finding"] == rows[name]["finding"]
        assert f"red: {study['finding'].rstrip('.')}" in said.err
    assert record["runs"][0]["made_by"]["weights_sha256"]
    assert all(s["seconds"]["infer"] > 0 for s in record["studies"] if s["status"] == "done")


@pytest.mark.parametrize("shape", [(20, 24, 22), (20, 24, 1), (20, 24), (20, 24, 22, 1)])
@pytest.mark.parametrize("axes", ["RAS", "LPI", "SAL"])
def test_labels_lie_on_the_grid_of_the_study(shape: tuple[int, ...], axes: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(volume(*shape), AFFINE)
    if len(shape) == 3:
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes)
        )
        image = image.as_reoriented(turn)
    nib.save(image, tmp_path / "study.nii.gz")
    run([tmp_path / "study.nii.gz"], tmp_path / "out", force=True)  # single slices too
    labels = nib.load(next((tmp_path / "out").rglob("labels.nii.gz")))
    assert labels.shape == image.shape
    assert labels.get_data_dtype() == np.uint8
    np.testing.assert_allclose(labels.affine, image.affine, atol=1e-5)


def test_the_orientation_on_disk_does_not_change_the_answer(tmp_path: Path) -> None:
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in (36, 40, 38)], indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    head = nib.Nifti1Image((100 * np.exp(-4 * (radius - 0.4) ** 2)).astype(np.float32), AFFINE)
    labels = {}
    for code in ("RAS", "LPI"):
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(AFFINE), nib.orientations.axcodes2ornt(code)
        )
        nib.save(head.as_reoriented(turn), tmp_path / f"{code}.nii.gz")
        run([tmp_path / f"{code}.nii.gz"], tmp_path / code)
        labels[code] = nib.as_closest_canonical(nib.load(next((tmp_path / code).rglob("labels.nii.gz"))))
    first, second = (np.asarray(labels[code].dataobj) for code in ("RAS", "LPI"))
    assert len(np.unique(first)) > 2
    assert (first == second).mean() > 0.999


def test_files_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        write_good(tmp_path / "studies" / patient / "ct.nii.gz")
    _, record = run([tmp_path / "studies"], tmp_path / "out")
    assert len({s["study"] for s in record["studies"]}) == 2
    assert len(list((tmp_path / "out").rglob("labels.nii.gz"))) == 2


def test_nothing_to_do_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run([tmp_path / "empty"], tmp_path / "out")[0] == 2
    assert "no study was found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_studies_in_the_output_folder_are_named_before_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("no image")
    write_good(tmp_path / "study.nii.gz")
    assert run([tmp_path], tmp_path)[0] == 2
    said = capsys.readouterr().err
    assert f"left out: {tmp_path / 'study.nii.gz'}: lies in the output folder\n" in said
    assert "choose another folder for the output" in said
    assert "run.json" not in said  # which is not written
    assert not (tmp_path / "run.json").exists()


def test_a_failed_study_leaves_its_earlier_result(tmp_path: Path) -> None:
    study = write_good(tmp_path / "study.nii.gz")
    run([study], tmp_path / "out")
    before = (tmp_path / "out" / "study" / "labels.nii.gz").read_bytes()
    truncated(study)
    assert run([study], tmp_path / "out", overwrite=True)[1]["failures"][0]["code"] == "nifti-truncated"
    assert (tmp_path / "out" / "study" / "labels.nii.gz").read_bytes() == before
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".partial")]
    mark = read_mark(tmp_path / "out" / "study")
    assert mark is not None and mark["void"]  # so that nobody takes it for the result


def test_the_report_is_written_and_names_no_patient(tmp_path: Path) -> None:
    run([write_good(tmp_path / "study.nii.gz")], tmp_path / "out", report=True)
    folder = tmp_path / "out" / "study"
    assert {p.name for p in folder.iterdir()} >= {"labels.nii.gz", "measurements.json", "report.html"}
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "research use" in text.lower()
    assert str(tmp_path) not in text


def tiny() -> SegFormer3D:
    return SegFormer3D(
        1, 2, embed_dims=(8, 8, 8, 8), num_heads=(1, 1, 1, 1), depths=(1, 1, 1, 1), decoder_dim=8
    )


def test_weights_come_whole_or_not_at_all(tmp_path: Path) -> None:
    network = tiny()
    path = save_weights(network, tmp_path / "model.pt")
    filled = load_weights(tiny(), path)
    assert not filled.training
    for name, value in filled.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-3, atol=1e-4)
    state = torch.load(path, weights_only=True)
    state.pop("head.readout.bias")
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"model\.pt: .*missing: head\.readout\.bias"):
        load_weights(tiny(), path)
    with pytest.raises(WeightsError, match="no such checkpoint"):
        load_weights(tiny(), tmp_path / "nothing.pt")


def test_an_earlier_study_is_compared_with_one_patient_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_good(tmp_path / "studies" / f"{name}.nii.gz")
    earlier = tmp_path / "measurements.json"
    content = {
        "study": {"id": "x", "date": "2020-01-02"}, "structures": [], "provenance": {},
        "grid": {"spacing_mm": [1.0, 1.0, 1.0]}, "quality": {"light": "green", "flags": []},
    }  # fmt: skip
    earlier.write_text(json.dumps(content))
    with pytest.raises(MedvitError, match="2 were found"):
        run([tmp_path / "studies"], tmp_path / "out", priors=[str(earlier)])
    assert not (tmp_path / "out").exists()


def test_what_would_fail_when_a_report_is_written_fails_before(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="no report in language 'xx'"):
        ResultOptions(language="xx")
    with pytest.raises(MedvitError, match=r"none\.json: not a readable measurements\.json"):
        ResultOptions(priors=[str(tmp_path / "none.json")])


def test_missing_weights_stop_a_run(tmp_path: Path) -> None:
    study = write_good(tmp_path / "study.nii.gz")
    with pytest.raises(WeightsError, match=r"none\.pt: bundle segformer3d_brain has no weights"):
        run([study], tmp_path / "out", checkpoint=str(tmp_path / "none.pt"))
    assert not (tmp_path / "out").exists()


def test_the_bundle_names_the_file_of_its_weights() -> None:
    assert Bundle(BUNDLE.path).weights.is_file()
