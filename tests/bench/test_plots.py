"""Pictures of the bench: what is drawn where, and nothing where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from medvit.bench import plots
from medvit.bench.row import MANUAL, Row
from medvit.evaluation.measure import StudyScores


def scores(study: str, dice: float, ours: float) -> StudyScores:
    values = {"dice": dice, "volume_prediction_ml": ours, "volume_reference_ml": 10.0}
    return StudyScores(study, {"thalamus": "both"}, {"thalamus": values})


def row(name: str, dice: float, **costs: Any) -> Row:
    measured = [scores("a", dice, 11.0), scores("b", dice - 0.1, 8.0)]
    return Row(name, scores={MANUAL: measured}, costs=costs or None)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    return figures


def test_quality_stands_over_cpu_seconds(drawn: list[Figure], tmp_path: Path) -> None:
    rows = [
        row("small", 0.8, seconds=9, cpu_seconds=2.0, parameters=1e6),
        row("large", 0.9, seconds=9, cpu_seconds=4.0, parameters=4e6),
        row("untimed", 0.7, seconds=9),  # its CPU seconds are unknown
    ]
    assert plots.draw_quality_over_time(tmp_path / "a.png", rows)
    (panel,) = drawn[0].axes
    assert panel.get_xlabel() == "CPU seconds per study" and panel.get_title() == MANUAL
    points = [tuple(float(v) for v in c.get_offsets()[0]) for c in panel.collections]
    assert points == [pytest.approx((2.0, 0.75)), pytest.approx((4.0, 0.85))]
    areas = [float(c.get_sizes()[0]) for c in panel.collections]
    assert areas[1] == pytest.approx(4 * areas[0])
    assert panel.get_xlim() == pytest.approx((0, 1.3 * 4))


def test_times_that_lie_far_apart_have_a_logarithmic_axis(drawn: list[Figure], tmp_path: Path) -> None:
    rows = [row("a", 0.8, seconds=1, cpu_seconds=1.0), row("b", 0.8, seconds=1, cpu_seconds=10.0)]
    plots.draw_quality_over_time(tmp_path / "a.png", rows)
    (panel,) = drawn[0].axes
    assert panel.get_xscale() == "log" and panel.get_xlim() == pytest.approx((0.5, 20))


def test_on_a_gpu_the_clock_counts(drawn: list[Figure], tmp_path: Path) -> None:
    plots.draw_quality_over_time(tmp_path / "a.png", [row("a", 0.8, seconds=3.0, peak_gpu_mb=900)])
    assert drawn[0].axes[0].get_xlabel() == "seconds per study"


def test_volumes_stand_over_their_mean_with_limits(drawn: list[Figure], tmp_path: Path) -> None:
    assert plots.draw_agreement(tmp_path / "a.png", [row("a", 0.8)])
    panel = drawn[0].axes[0]
    dots = panel.lines[0]
    assert list(dots.get_xdata()) == [10.5, 9.0] and list(dots.get_ydata()) == [1.0, -2.0]
    # Mean -0.5, standard deviation 2.1213.
    levels = [float(line.get_ydata()[0]) for line in panel.lines[1:4]]
    assert levels == pytest.approx([-0.5, -0.5 - 1.96 * 2.1213, -0.5 + 1.96 * 2.1213], abs=1e-3)


def test_nothing_to_draw(tmp_path: Path) -> None:
    empty = [Row("a", error="no weights")]
    for draw in (plots.draw_quality_over_time, plots.draw_structures, plots.draw_agreement):
        assert not draw(tmp_path / "a.png", empty)
    assert not plots.draw_quality_over_time(tmp_path / "a.png", [row("a", 0.8, seconds=9)])
    assert list(tmp_path.iterdir()) == []


def test_equal_pictures_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        assert plots.draw_structures(tmp_path / name, [row("a", 0.8), row("b", 0.9)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
