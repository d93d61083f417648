"""The bench of restorations: true grids, scores of the foreground, tables, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from medvit.bench.restore import RestoreWork, bench_restore
from medvit.bench.truth import RestoreOptions, make_truth
from medvit.bundles import find_bundle
from medvit.errors import MedvitError, StudyError
from medvit.studies import find_studies
from tests.bench.heads import write_textured_head


def test_the_tables_hold_every_method(tmp_path: Path) -> None:
    options = RestoreOptions(factor=4, cut=32)
    heads = [write_textured_head(tmp_path / f"head{n}.nii.gz") for n in (1, 2)]
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
    coarse = find_studies(write_textured_head(tmp_path / "coarse.nii.gz", 2.0)).studies[0]
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
