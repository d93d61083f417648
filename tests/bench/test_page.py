"""The page says what a reader must know: what was missed, what differs, what was in the way."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from medvit.bench.page import write_page
from medvit.bench.row import MANUAL, Row
from medvit.evaluation.measure import StudyScores

COSTS = {
    "study": "s1", "seconds": 20.0, "cpu_seconds": 5.0, "rounds_seconds": [20.0], "peak_mb": 1000.0,
    "peak_gpu_mb": None, "parameters": 3e6, "window_gflops": 20.0, "study_gflops": 160.0,
    "machine": {"processor": "A processor", "threads": 1}, "software": {"medvit": "1"},
}  # fmt: skip


def scores(study: str, left: float, right: float, hd95: float = 2.0) -> StudyScores:
    shared = {"surface_dice": 0.5, "volume_off_percent": 10.0}
    values = {"left thing": {"dice": left, "hd95_mm": 3.0, **shared}}
    values["right thing"] = {"dice": right, "hd95_mm": hd95, **shared}
    return StudyScores(study, dict.fromkeys(values, "both"), values)


def page_of(folder: Path, *rows: Row) -> str:
    write_page(folder, rows, "", "medvit bench brain -o OUT")
    return (folder / "bench.md").read_text()


def test_sides_are_averaged_and_missed_structures_counted(tmp_path: Path) -> None:
    row = Row(
        "one", scores={"heads": [scores("s1", 0.8, 0.6), scores("s2", 0.4, 0.0, math.inf)]}, costs=COSTS
    )
    page = page_of(tmp_path, row)
    assert "| thing | 0.450 |" in page
    assert "| s1 | 0.700 |" in page and "| s2 | 0.200 |" in page
    assert "2.75 [2.50, 3.00], 1 missed |" in page
    assert row.by_study("heads", "hd95_mm") == {"s1": 2.5, "s2": 3.0}


@pytest.mark.parametrize("cpu_seconds", [5.0, 19.0])
def test_a_busy_machine_is_owned_up_to(tmp_path: Path, cpu_seconds: float) -> None:
    row = Row("one", scores={"heads": [scores("s1", 1, 1)]}, costs=COSTS | {"cpu_seconds": cpu_seconds})
    page = page_of(tmp_path, row)
    assert ("had other work to do" in page) == (cpu_seconds == 5.0)
    assert f"| one | 1.000 | {'–' if cpu_seconds == 5.0 else '20.0'} | {cpu_seconds} | 1,000 | 3.00 |" in page


def test_different_postprocessing_is_said(tmp_path: Path) -> None:
    group = {"heads": [scores("s1", 1, 1)]}
    rows = [Row(n, postprocessing=p, scores=group, costs=COSTS) for n, p in (("one", "x"), ("two", "y"))]
    assert "different post-processing" in page_of(tmp_path, *rows)
    assert "the same post-processing for all" in page_of(tmp_path, rows[0], rows[0])


def test_bundles_that_all_fail_make_a_page_without_pictures(tmp_path: Path) -> None:
    page = page_of(tmp_path, Row("one", error="a | b"), Row("two", error="c"))
    assert "| one | all studies | a \\| b |" in page
    assert ".png" not in page
    assert not (tmp_path / "images").exists()


def test_volumes_against_manual_labels(tmp_path: Path) -> None:
    drawn, found = (2.0, 3.0, 4.0), (2.5, 3.2, 4.8)
    studies = []
    for number, (ours, theirs) in enumerate(zip(found, drawn, strict=True)):
        values = {
            "dice": 0.8, "surface_dice": 0.9, "hd95_mm": 2.0, "volume_prediction_ml": ours,
            "volume_reference_ml": theirs, "volume_error_percent": 100 * (ours / theirs - 1),
            "volume_off_percent": 1.0,
        }  # fmt: skip
        studies.append(StudyScores(f"s{number}", {"thing": "both"}, {"thing": values}))
    rows = [Row("one", scores={"other": studies, MANUAL: studies}, costs=COSTS)]
    page = page_of(tmp_path, *rows)
    assert page.index("## Manual labels") < page.index("## Other")
    spread = 1.96 * math.sqrt(0.09)
    limits = f"{0.5 - spread:+.2f} to {0.5 + spread:+.2f}"
    assert f"| thing | 0.800 | 0.900 | 2.00 | +17 | +0.50 | {limits} | 0.98 |" in page
    assert (tmp_path / "images" / "bench_agreement.png").stat().st_size > 5000


def test_red_lights_are_named_beside_their_scores(tmp_path: Path) -> None:
    row = Row(
        "one", scores={"heads": [scores("s1", 0.5, 0.5)]}, costs=COSTS, red={"s1": "No a | b was found."}
    )
    page = page_of(tmp_path, row)
    assert "| one | 1 | 0.500 |" in page
    assert "## Red lights" in page and "| one | s1 | No a \\| b was found. |" in page
    assert "## Red lights" not in page_of(tmp_path, Row("one", scores=row.scores, costs=COSTS))
