"""Restored images against their references, and probability maps against label maps."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from medvit.cli.app import app
from medvit.errors import StudyError
from medvit.evaluation import Options, Pair, evaluate, measure_images, measure_pair
from medvit.metrics import dice, psnr, reliability, rmse
from tests.evaluation.cohort import AFFINE, SHAPE, save, two_balls

WINDOW = (-160.0, 240.0)


def write_images(folder: Path, shift: float = 2.0) -> tuple[Path, Path]:
    """Restored images as a run leaves them, and references; one voxel lies far outside the window."""
    random = np.random.default_rng(0)
    for i in range(2):
        reference = random.normal(40, 10, SHAPE).astype(np.float32)
        restored = reference + random.normal(shift, 4, SHAPE).astype(np.float32)
        restored[0, 0, 0] = 3000
        save(folder / "restored" / f"case_{i}" / "image.nii.gz", restored)
        save(folder / "full_dose" / f"case_{i}.nii.gz", reference)
    return folder / "restored", folder / "full_dose"


def test_scores_of_images_are_those_of_the_metrics_within_the_window(tmp_path: Path) -> None:
    restored, full = write_images(tmp_path)
    files = restored / "case_0" / "image.nii.gz", full / "case_0.nii.gz"
    a, b = (np.asarray(nib.load(f).dataobj).clip(*WINDOW) for f in files)
    values = measure_images(Pair("case_0", *files), WINDOW).values["image"]
    assert values["psnr_db"] == pytest.approx(psnr(a, b, data_range=400), rel=1e-6)
    assert values["rmse"] == pytest.approx(rmse(a, b), rel=1e-6)
    assert 0.5 < values["ssim"] < 1
    assert values["bias"] == pytest.approx(2, abs=0.3)


def test_air_without_error_does_not_raise_the_scores_of_the_foreground(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    reference = np.zeros((48, 40, 6), np.float32)
    reference[8:24] = random.normal(80, 5, (16, 40, 6))
    restored = reference + (reference > 0) * random.normal(0, 5, reference.shape).astype(np.float32)
    files = save(tmp_path / "restored.nii.gz", restored), save(tmp_path / "true.nii.gz", reference)
    values = measure_images(Pair("case", *files), (0.0, 100.0)).values["image"]
    # A third of the voxels is foreground, so the whole image gains 10 log10(3).
    assert values["psnr_db"] - values["foreground_psnr_db"] == pytest.approx(4.77, abs=0.01)
    assert values["foreground_ssim"] < values["ssim"] - 0.05


def test_images_through_the_command(tmp_path: Path) -> None:
    restored, full = write_images(tmp_path)
    save(restored / "case_0" / "labels.nii.gz", two_balls())
    command = ["evaluate", str(restored), str(full), "-o", str(tmp_path / "out"), "--window", "-160", "240"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "PSNR" in done.output
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [s["study"] for s in content["studies"]] == ["case_0", "case_1"]
    assert content["bland_altman"] == []
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "Images within -160 to 240" in page
    assert "Agreement of volumes" not in page
    assert "all structures" not in page + done.output
    assert CliRunner().invoke(app, [*command[:-2], "240", "-160"]).exit_code != 0


def test_images_that_cannot_be_compared(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.nii.gz", np.zeros((9, 9, 3), np.float32)) for n in "ab"]
    with pytest.raises(StudyError, match="at least 11 pixels"):
        measure_images(Pair("s", *files), WINDOW)
    other = save(tmp_path / "c.nii.gz", np.zeros((9, 9, 3), np.float32), 2 * AFFINE)
    with pytest.raises(StudyError, match="another grid"):
        measure_images(Pair("s", other, files[0]), WINDOW)


def probability_map(labels: np.ndarray, sure: float) -> np.ndarray:
    """(X, Y, Z, 3): `sure` for the label, the rest shared."""
    p = np.full((*labels.shape, 3), (1 - sure) / 2, np.float32)
    np.put_along_axis(p, labels[..., None].astype(int), sure, axis=-1)
    return p


def test_probabilities_are_scored_as_labels_and_for_calibration(tmp_path: Path) -> None:
    p = probability_map(two_balls(shift=2), 0.9)
    prediction = save(tmp_path / "p.nii.gz", p)
    reference = save(tmp_path / "r.nii.gz", two_balls())
    scores = measure_pair(Pair("s", prediction, reference), None, Options(probabilities=True))
    left = scores.values["label 1"]
    assert left["dice"] == pytest.approx(dice(two_balls(shift=2) == 1, two_balls() == 1))
    expected = reliability(p[..., 1], two_balls() == 1)  # nowhere below 1 %
    assert left["ece"] == pytest.approx(expected.ece)
    assert scores.reliability["label 1"].count.tolist() == expected.count.tolist()


def test_calibration_of_all_studies_together_stands_on_the_page(tmp_path: Path) -> None:
    for i, sure in enumerate((0.7, 0.999)):
        save(tmp_path / "p" / f"c{i}.nii.gz", probability_map(two_balls(), sure))
        save(tmp_path / "r" / f"c{i}.nii.gz", two_balls())
    options = Options(probabilities=True)
    assert evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out", options=options).exit_code == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    # Of the second study only the structure itself is above 1 %.
    voxels = content["calibration"]["label 1"]["voxels"]
    assert sum(voxels) == two_balls().size + np.sum(two_balls() == 1)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "calibration error" in page


@pytest.mark.parametrize("change", ["labels", "logits", "no sum", "nrrd"])
def test_what_is_no_probability_map_is_refused(tmp_path: Path, change: str) -> None:
    p = probability_map(two_balls(), 0.9)
    voxels = {"labels": two_balls(), "logits": 5 * p - 2, "no sum": 0.9 * p}.get(change, p)
    prediction = save(tmp_path / "p.nii.gz", voxels)
    if change == "nrrd":
        prediction = prediction.rename(tmp_path / "p.nrrd")
    with pytest.raises(StudyError, match="softmax") as caught:
        measure_pair(Pair("s", prediction, prediction), None, Options(probabilities=True))
    assert caught.value.code == "not-probabilities"
