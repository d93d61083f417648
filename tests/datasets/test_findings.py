"""What a check found, in lines for people and in figures for JSON."""

from __future__ import annotations

from pathlib import Path

from medvit.datasets.findings import SHOWN, Findings, outside, structures_of, times
from medvit.studies.manifests.read import read_manifest


def findings(folder: Path) -> Findings:
    manifest = read_manifest("msd05_prostate")
    return Findings(manifest, folder, labelled=2, unlabelled=1, volumes={
        s.name: ml for s, ml in zip(manifest.labels or (), ([3.0, 5.0], []), strict=True)
    })  # fmt: skip


def test_bounds_are_kept_to_a_hundredth() -> None:
    bounds = ((1.0, 1.0, 3.0), (2.0, 2.0, 5.0))
    assert not outside((0.995, 2.015, 4.0), bounds)
    assert outside((0.98, 1.5, 4.0), bounds)
    assert outside((1.5, 1.5, 5.1), bounds)
    assert times((240, 240.0, 0.97656)) == "240 x 240 x 0.9766"


def test_problems_are_lines_and_name_files_below_the_folder(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert found.ok
    found.add("missing-label", "is not there", "c1", tmp_path / "labelsTr" / "c1.nii.gz")
    found.add("count", "there are 2 labelled cases where 32 are expected")
    found.add("unreadable", "ends early", "c2", Path("/elsewhere/c2.nii.gz"))
    assert not found.ok
    lines = str(found).splitlines()
    assert lines[0] == "missing-label: c1: labelsTr/c1.nii.gz: is not there"
    assert lines[1] == "count: there are 2 labelled cases where 32 are expected"
    assert lines[2] == "unreadable: c2: /elsewhere/c2.nii.gz: ends early"
    assert "problems     missing-label 1, count 1, unreadable 1" in lines


def test_many_problems_of_one_kind_are_cut_short_for_people_alone(tmp_path: Path) -> None:
    found = findings(tmp_path)
    for number in range(SHOWN + 3):
        found.add("grid", "lies elsewhere", f"c{number}")
    lines = str(found).splitlines()
    assert sum(line.startswith("grid: c") for line in lines) == SHOWN
    assert "grid: and 3 more; --json lists them all" in lines
    assert len(found.as_dict()["problems"]) == SHOWN + 3


def test_the_summary_has_ranges_and_the_median_of_each_structure(tmp_path: Path) -> None:
    found = findings(tmp_path)
    found.shapes |= {(320, 320, 15), (256, 320, 24)}
    found.spacings.add((0.625, 0.625, 3.6))
    text, figures = str(found), found.as_dict()
    assert "voxels       256 x 320 x 15 to 320 x 320 x 24" in text
    assert "spacing, mm  0.625 x 0.625 x 3.6" in text
    assert "cases        2 with a label map, 1 without" in text
    assert figures["shape"] == ([256, 320, 15], [320, 320, 24])
    first, second = structures_of(found.manifest)
    assert figures["structures"][first] == {"cases": 2, "median_ml": 4.0}
    assert figures["structures"][second] == {"cases": 0, "median_ml": None}
    assert structures_of(found.manifest) == {first: 1, second: 2}
