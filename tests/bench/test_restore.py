"""The bench of restorations: true grids, scores of the foreground, tables, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medvit.bench.restore import RestoreWork, bench_restore
from medvit.bench.truth import RestoreOptions, foreground, make_truth
from medvit.bundles import find_bundle
from medvit.errors import MedvitError, StudyError
from medvit.studies import find_studies
from medvit.transforms.in_plane import pixel_refinement_of
from medvit.transforms.through_plane import refinement_of


def _head(path: Path, spacing: float = 1.0) -> Path:
    x, y, z = np.meshgrid(*[np.arange(40) - 19.5] * 3, indexing="ij")
    radius = np.sqrt(x**2 + 1.3 * y**2 + z**2)
    head = np.where(radius < 17, 600 + 300 * np.sin(x / 2) * np.cos(z / 3 + y / 4), 0)
    affine = np.diag([-spacing, spacing, spacing, 1])[[0, 2, 1, 3]]
    nib.save(nib.Nifti1Image(ndimage.gaussian_filter(head, 0.7).astype(np.float32), affine), path)
    return path


def test_the_thick_study_lies_where_the_truth_lies(tmp_path: Path) -> None:
    study = find_studies(_head(tmp_path / "head.nii.gz")).studies[0]
    truth = make_truth(study, RestoreOptions(factor=3, plane="axial", noise=0.0))
    assert truth.image.shape == (40, 40, 39) and truth.samples.shape == (40, 40, 13)
    np.testing.assert_allclose(np.abs(truth.grid.affine[2, :3]), [0, 0, 1])
    refinement = refinement_of(truth.coarse_study)
    assert refinement.grid.matches(truth.grid)


def test_the_study_of_coarse_pixels_lies_where_the_truth_lies(tmp_path: Path) -> None:
    study = find_studies(_head(tmp_path / "head.nii.gz")).studies[0]
    truth = make_truth(study, RestoreOptions(in_plane=True, cut=33))
    assert truth.image.shape == (32, 32, 33) and truth.samples.shape == (16, 16, 33)
    assert pixel_refinement_of(truth.coarse_study).grid.matches(truth.grid)
    # The mean of a slice is a spatial frequency of 0, which is measured.
    np.testing.assert_allclose(truth.samples.mean((0, 1)), truth.image.mean((0, 1)), atol=0.003)


def test_too_coarse_for_a_study_is_said(tmp_path: Path) -> None:
    study = find_studies(_head(tmp_path / "head.nii.gz")).studies[0]
    for options, words in (
        (RestoreOptions(factor=200), "too few voxels for two slices, 200 voxels apart.*smaller --factor"),
        (RestoreOptions(factor=30, in_plane=True), "two pixels along an axis of a slice, 30 voxels apart"),
    ):
        with pytest.raises(StudyError, match=words):
            make_truth(study, options)
    with pytest.raises(MedvitError, match="those of slices, not of pixels"):
        RestoreOptions(in_plane=True, thickness=3.0)


def test_noise_is_rician_and_comes_after_the_slices(tmp_path: Path) -> None:
    study = find_studies(_head(tmp_path / "head.nii.gz")).studies[0]
    quiet, loud = (make_truth(study, RestoreOptions(noise=n)).samples for n in (0.0, 0.1))
    air = quiet < 1e-3
    assert loud[air].mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.05)


def test_air_does_not_count() -> None:
    image = np.zeros((20, 20, 20))
    image[5:15, 5:15, 5:15] = 1
    image[8:12, 8:12, 8:12] = 0
    image[1, 1, 1] = 1
    found = foreground(image)
    assert found[7:13, 7:13, 7:13].all() and not found[:5].any()


def test_the_tables_hold_every_method(tmp_path: Path) -> None:
    options = RestoreOptions(factor=4, cut=32)
    heads = [_head(tmp_path / f"head{n}.nii.gz") for n in (1, 2)]
    assert bench_restore(heads, tmp_path / "out", options) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "restore.csv").open()))
    scores = {row["method"]: float(row["psnr_db"]) for row in rows}
    assert scores["linear"] < scores["cubic B-spline"] < scores["back-projection"]
    # What is done is not done again, but for other options it is.
    made = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").rglob("scores.json"))]
    assert bench_restore(heads, tmp_path / "out", options) == 0
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "out").rglob("scores.json"))] == made
    assert RestoreWork(tmp_path, options).made_by() != RestoreWork(tmp_path, RestoreOptions()).made_by()
    in_plane = tmp_path / "in_plane"
    assert bench_restore(heads[:1], in_plane, RestoreOptions(cut=32, in_plane=True)) == 0
    rows_in_plane = list(csv.DictReader((in_plane / "restore.csv").open()))
    finer = {row["method"]: float(row["psnr_db"]) for row in rows_in_plane}
    assert finer["linear"] < finer["cubic B-spline"] < finer["zero-filling"]
    page = (tmp_path / "out" / "restore.md").read_text()
    assert "axial slices 4 voxels apart" in page and "| non-local |" in page and "middle 32³" in page
    assert page.startswith("2 studies") and len(rows) == 2 * len(scores)
    assert sum("2 of 2" in line for line in page.splitlines()) <= 1


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = find_studies(_head(tmp_path / "coarse.nii.gz", 2.0)).studies[0]
    with pytest.raises(StudyError, match="too coarse"):
        make_truth(coarse, RestoreOptions())
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "coarse.nii.gz").read_bytes()[:200])
    both = [tmp_path / "coarse.nii.gz", tmp_path / "cut.nii.gz"]
    assert bench_restore(both, tmp_path / "out") == 3
    said = capsys.readouterr().err
    assert "failed coarse" in said and "too coarse to stand for the truth" in said and "failed cut" in said
    assert not list((tmp_path / "out").glob("*.md")) and not list((tmp_path / "out").rglob("scores.json"))
    assert json.loads((tmp_path / "out" / "restore.json").read_text())["rows"] == []
    with pytest.raises(MedvitError, match="does not super-resolve"):
        bench_restore([tmp_path / "coarse.nii.gz"], tmp_path, bundles=[find_bundle("rat_mr_denoise")])
    for wrong in ({"factor": 1}, {"plane": "oblique"}, {"noise": 2.0}, {"profile": "cone"}):
        with pytest.raises(MedvitError):
            RestoreOptions(**wrong)  # type: ignore[arg-type]
