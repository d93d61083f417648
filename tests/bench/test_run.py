"""A bench of a bundle that works and one that does not: every figure is what was measured, by hand."""

from __future__ import annotations

import csv
import json
import shutil
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medvit.bench import Acquisition, BenchOptions, run
from medvit.bench.studies import BenchStudy, Reference
from medvit.bench.synthetic import GROUP, synthetic_studies
from medvit.bundles import Bundle
from medvit.errors import MedvitError, MissingExtraError
from medvit.metrics import dice, hd95, surface_dice, volume_error
from medvit.runs.outcome import StudyOutcome
from medvit.runs.work import Attempt
from medvit.runs.workers import LocalExecutor
from medvit.studies import Study
from medvit.studies.labels import load_label_table
from tests.phantoms import coarse_bundle, write_head

TABLE = load_label_table("brain")
ACQUISITIONS = (Acquisition("T1", 4.0), Acquisition("T2", 4.0, thickness=2))
OPTIONS = BenchOptions(held_out=("head",), rounds=1, device="cpu", date="a day")


def no_template(*_: object) -> None:
    raise MissingExtraError("the ICBM template", "demo")


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Bundle], int]:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "maps").mkdir()
    write_head(folder / "maps" / "head_1.nii.gz")
    working = coarse_bundle(folder)
    broken = Bundle(folder / "broken_brain")
    shutil.copytree(working.path / "configs", broken.path / "configs")
    with pytest.MonkeyPatch.context() as patch:
        code = bench(patch, folder, [working, broken])
    return folder, [working, broken], code


def bench(patch: pytest.MonkeyPatch, folder: Path, bundles: list[Bundle]) -> int:
    patch.setattr(run, "template_study", no_template)
    patch.setattr(run, "synthetic_studies", partial(synthetic_studies, acquisitions=ACQUISITIONS))
    options = BenchOptions(**vars(OPTIONS) | {"label_maps": folder / "maps"})
    return run.bench_brain(folder / "out", options, bundles=bundles, work_dir=folder / "work")


def content(folder: Path) -> dict:
    return json.loads((folder / "out" / "bench.json").read_text())


def test_the_page_names_the_command_that_gives_it(benched: tuple[Path, list[Bundle], int]) -> None:
    page = (benched[0] / "out" / "bench.md").read_text()
    said = " ".join(page.split("```")[1].split())
    bundles = "--bundle segformer3d_brain --bundle broken_brain"
    inputs = "--label-maps LABEL_MAPS --held-out head"
    assert said == f"medvit bench brain -o OUT {inputs} {bundles} --rounds 1 --device cpu"


def test_studies_whose_results_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    cases = []
    for name in ("a 1", "a_1"):
        image, label = (f"{name}{end}.nii.gz" for end in ("", "_seg"))
        for file in (image, label):
            nib.save(nib.Nifti1Image(np.full((4, 4, 4), 59, np.int16), np.eye(4)), tmp_path / file)
        cases.append({"id": name, "image": image, "label": label})
    manifest = tmp_path / "mine.json"
    manifest.write_text(json.dumps({"labels": {"59": "any"}, "cases": cases}))
    options = BenchOptions(manual=manifest, protocol="neuromorphometrics")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "template_study", no_template)
        with pytest.raises(
            MedvitError, match=r"a 1\.nii\.gz and .*a_1\.nii\.gz would share the folder manual_a_1"
        ):
            run.bench_brain(tmp_path / "out", options, bundles=[coarse_bundle(tmp_path)])


def test_the_figures_are_those_of_the_metrics(benched: tuple[Path, list[Bundle], int]) -> None:
    folder, _, _ = benched
    entry = content(folder)["bundles"][0]
    name, spacing = "left thalamus", {}
    measured: dict[str, list[float]] = {
        "dice": [],
        "surface_dice": [],
        "hd95_mm": [],
        "volume_off_percent": [],
    }
    for recipe in ACQUISITIONS:
        study = f"head_1_{recipe.name}"
        found = nib.load(folder / "work" / "segformer3d_brain" / study / "labels.nii.gz")
        drawn = nib.load(folder / "work" / "studies" / f"{study}_seg.nii.gz")
        spacing[study] = found.header.get_zooms()
        a, b = (np.asarray(i.dataobj) == TABLE.by_name[name].value for i in (found, drawn))
        assert b.any()
        measured["dice"].append(dice(a, b))
        measured["surface_dice"].append(surface_dice(a, b, spacing[study], tolerance=1))
        measured["hd95_mm"].append(hd95(a, b, spacing[study]))
        measured["volume_off_percent"].append(abs(volume_error(a, b, 1.0).percent))
    assert spacing["head_1_T2_4x4x8mm"] == (4, 4, 8)
    for metric, values in measured.items():
        finite = [v for v in values if np.isfinite(v)]
        mean = entry["structures"][GROUP][name][metric][0]
        assert mean == pytest.approx(np.mean(finite), abs=1e-4) if finite else mean is None
    assert set(entry["studies"][GROUP]) == {f"head_1_{r.name}" for r in ACQUISITIONS}


def test_costs_are_of_the_timed_study(benched: tuple[Path, list[Bundle], int]) -> None:
    folder, (working, _), _ = benched
    costs = content(folder)["bundles"][0]["costs"]
    assert costs["study"] == "head_1_T1_4x4x4mm"
    assert len(costs["rounds_seconds"]) == 1
    assert 0 < costs["infer_seconds"] < costs["seconds"]
    assert costs["parameters"] == 3_421_592
    assert costs["window"] == [1, 1, 32, 32, 32]
    assert costs["window_gflops"] == pytest.approx(1.08, abs=0.05)
    # 40 x 48 x 40 voxels of 4 mm, in two windows along each axis.
    assert costs["study_gflops"] == pytest.approx(8 * costs["window_gflops"])
    assert 300 < costs["peak_mb"] < 8000
    assert costs["peak_gpu_mb"] is None
    assert content(folder)["bundles"][0]["weights_mb"] == round(working.weights.stat().st_size / 1e6, 4)


def test_a_bundle_that_fails_is_a_row_with_its_reason(benched: tuple[Path, list[Bundle], int]) -> None:
    folder, _, code = benched
    assert code == run.SOME_FAILED
    good, bad = content(folder)["bundles"]
    assert good["error"] == ""
    assert bad["error"] == "has no weights"
    page = (folder / "out" / "bench.md").read_text()
    assert f"| broken_brain | all studies | {bad['error']} |" in page
    assert str(folder) not in page + json.dumps(content(folder))
    lines = list(csv.DictReader((folder / "out" / "bench.csv").open()))
    assert [line["bundle"] for line in lines] == ["segformer3d_brain", "broken_brain"]
    assert lines[1]["seconds"] == ""


def test_the_page_shows_what_was_measured(benched: tuple[Path, list[Bundle], int]) -> None:
    folder, (working, _), _ = benched
    page = (folder / "out" / "bench.md").read_text()
    mean = content(folder)["bundles"][0]["structures"][GROUP]["all structures"]["dice"][0]
    assert f"| segformer3d_brain | {mean:.3f} |" in page
    assert run.sha256_of(working.weights) in page
    assert "a day, " in page
    for name in ("bench_time.png", "bench_structures.png"):
        assert f"(images/{name})" in page
        pixels = np.asarray(Image.open(folder / "out" / "images" / name).convert("RGB"))
        blue = (pixels == (0, 0x72, 0xB2)).all(axis=-1)
        assert 0.01 < (pixels < 250).any(axis=-1).mean() < 0.5
        assert blue.sum() > 30


def test_what_is_done_is_not_done_again(
    benched: tuple[Path, list[Bundle], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, (working, _), _ = benched
    before = (folder / "out" / "bench.json").read_text()
    asked = refused_studies(monkeypatch)
    bench(monkeypatch, folder, [working])
    assert asked == []
    again = json.loads((folder / "out" / "bench.json").read_text())
    assert again["bundles"] == json.loads(before)["bundles"][:1]


def test_other_weights_are_another_bundle(
    benched: tuple[Path, list[Bundle], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, (working, _), _ = benched
    image = folder / "work" / "studies" / f"head_1_{ACQUISITIONS[0].name}.nii.gz"
    copy = Bundle(tmp_path / working.name)
    shutil.copytree(working.path, copy.path, ignore=shutil.ignore_patterns("runs", "eval"))
    asked = refused_studies(monkeypatch)
    study = BenchStudy(image.name.removesuffix(".nii.gz"), image, ())
    run.bench_one(copy, [study], folder / "work" / working.name, OPTIONS)
    assert asked == []
    copy.weights.write_bytes(copy.weights.read_bytes() + b"\0")
    row = run.bench_one(copy, [study], folder / "work" / working.name, OPTIONS)
    assert asked == [study.id]
    assert row.failures == {} and row.error.startswith("the workers cannot begin: not run")


def test_weights_that_cannot_be_loaded_are_a_row_with_the_reason(
    benched: tuple[Path, list[Bundle], int], tmp_path: Path
) -> None:
    folder, (working, _), _ = benched
    copy = Bundle(tmp_path / "bundle")
    shutil.copytree(working.path, copy.path, ignore=shutil.ignore_patterns("runs", "eval"))
    copy.weights.write_bytes(b"no weights at all")
    study = BenchStudy("a", folder / "work" / "studies" / f"head_1_{ACQUISITIONS[0].name}.nii.gz", ())
    row = run.bench_one(copy, [study], tmp_path / "work", OPTIONS)
    assert row.error.startswith("the workers cannot begin: model.pt: ")
    assert row.scores == {} and row.costs is None


def test_an_image_that_cannot_be_read_is_a_failure_of_its_study(
    benched: tuple[Path, list[Bundle], int], tmp_path: Path
) -> None:
    _, (working, _), _ = benched
    (tmp_path / "notes.txt").write_text("no image")
    bad = BenchStudy("bad", tmp_path / "notes.txt", ())
    row = run.bench_one(working, [bad], tmp_path / "work", OPTIONS)
    assert row.error == "" and list(row.failures) == ["bad"] and row.scores == {}
    assert "notes.txt: holds no studies" in row.failures["bad"]


def test_a_reference_on_another_grid_is_refused_before_inference(
    benched: tuple[Path, list[Bundle], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, (working, _), _ = benched
    image = folder / "work" / "studies" / f"head_1_{ACQUISITIONS[0].name}.nii.gz"
    drawn = nib.load(image.with_name(image.name.replace(".nii.gz", "_seg.nii.gz")))
    shifted = drawn.affine.copy()
    shifted[0, 3] += 2
    voxels = np.asarray(drawn.dataobj).astype(np.int16)
    flipped = drawn.affine @ np.diag([-1, 1, 1, 1])
    flipped[:, 3] = drawn.affine @ [drawn.shape[0] - 1, 0, 0, 1]
    for name, array, affine in (("moved", voxels, shifted), ("turned", voxels[::-1], flipped)):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    asked = refused_studies(monkeypatch)
    rows = {}
    for name in ("moved", "turned"):
        reference = Reference("any", tmp_path / f"{name}.nii.gz", (), ())
        study = BenchStudy(name, image, (reference,))
        rows[name] = run.bench_one(working, [study], tmp_path / name, OPTIONS)
    assert asked == ["turned"]
    assert (
        "moved.nii.gz: lies on another grid (of equal size, but elsewhere)" in rows["moved"].failures["moved"]
    )


def test_red_lights_are_those_of_the_records(
    benched: tuple[Path, list[Bundle], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, (working, _), _ = benched
    record = json.loads((folder / "work" / working.name / "run.json").read_text())
    red = {s["study"]: s["finding"] for s in record["studies"] if s["light"] == "red"}
    assert red
    assert bench(monkeypatch, folder, [working]) == run.SOME_FAILED
    assert content(folder)["bundles"][0]["red"] == red
    page = (folder / "out" / "bench.md").read_text()
    assert all(f"| {working.name} | {study} | {why} |" in page for study, why in red.items())


def refused_studies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The studies for which a worker was wanted; none can begin."""
    asked: list[str] = []

    def submit(_: object, study: Study) -> Future[Attempt]:
        asked.append(study.id)
        outcome, future = StudyOutcome(study.id), Future[Attempt]()
        outcome.fail(MedvitError("not run"))
        future.set_result(Attempt(outcome, "unfit"))
        return future

    monkeypatch.setattr(LocalExecutor, "submit", submit)
    return asked


def test_without_anything_to_run_on_the_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "template_study", no_template)
    with pytest.raises(MissingExtraError, match=r"medvit\[demo\]"):
        run.bench_brain(tmp_path)


def test_reasons_name_no_folder() -> None:
    said = "WeightsError: /home/someone/out/model.pt does not fit; C:\\data\\x.nii.gz: neither"
    assert run.without_folders(said) == "WeightsError: model.pt does not fit; x.nii.gz: neither"
    assert run.without_folders("1/2 of 3 km/h") == "1/2 of 3 km/h"
