"""What is kept of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medvit.training.history import draw, read_history, still_improving


def rows(*scores: float) -> list[dict[str, float]]:
    return [
        {"epoch": i, "step": 10.0 * i, "loss": 1.0, "mean_dice": s, "ear": s} for i, s in enumerate(scores, 1)
    ]


def test_rising_to_the_end_is_told_from_having_levelled_off() -> None:
    assert still_improving(rows(0.1, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75))
    assert not still_improving(rows(0.1, 0.6, 0.7, 0.74, 0.75, 0.751, 0.75, 0.752))
    assert not still_improving(rows(0.7, 0.6))
    assert still_improving(rows(0.7)), "nothing shows that it had levelled off"
    assert not still_improving([])
    assert not still_improving([{"epoch": 1, "step": 1, "loss": 2.0}] * 5)


def test_the_table_is_read_back_without_what_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "training.csv").write_text("epoch,loss,ear\n1,0.5,\n2,0.25,0.75\n")
    assert read_history(tmp_path / "training.csv") == [
        {"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "ear": 0.75}
    ]  # fmt: skip


def test_the_picture_holds_a_curve(tmp_path: Path) -> None:
    draw(rows(0.1, 0.9), tmp_path / "a.png")
    draw(rows(0.1, 0.2), tmp_path / "b.png")
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first.shape == second.shape and (first != second).any()
