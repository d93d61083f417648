"""A small head of ellipsoids with every structure of the brain table, to make reports of."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from medvit.reports import StudyReport, make_report
from medvit.studies.labels import LabelTable, load_label_table
from medvit.studies.study import Grid

BRAIN = load_label_table("brain")
LEFT, RIGHT = BRAIN.by_name["left putamen"], BRAIN.by_name["right putamen"]


def ras_affine(
    spacing: float | tuple[float, float, float] = 3.0, shape: tuple[int, ...] = (60, 72, 60)
) -> np.ndarray:
    """Axes along the patient's, the middle of the volume at the origin."""
    affine = np.diag([*np.broadcast_to(spacing, 3), 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def head(
    shape: tuple[int, int, int] = (60, 72, 60), spacing: float = 3.0
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Image (float32), label map (uint8) and grid; index 0 of axis 0 is the patient's left."""
    image, labels, grid = _head(shape, spacing)
    return image.copy(), labels.copy(), grid


@cache
def _head(shape: tuple[int, int, int], spacing: float) -> tuple[np.ndarray, np.ndarray, Grid]:
    affine = ras_affine(spacing, shape)
    axes = [affine[i, i] * np.arange(n) + affine[i, 3] for i, n in enumerate(shape)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    labels = np.zeros(shape, np.uint8)

    def paint(name: str, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> None:
        distance = sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii, strict=True))
        labels[distance <= 1] = BRAIN.by_name[name].value

    paint("cerebrospinal fluid", (0, 0, 5), (72, 88, 66))
    for side, sign in (("left", -1), ("right", 1)):
        paint(f"{side} cerebellar cortex", (sign * 24, -50, -45), (24, 24, 18))
        paint(f"{side} cerebellar white matter", (sign * 22, -50, -45), (15, 15, 10))
    for part, radii in (("cortex", (33, 80, 52)), ("white matter", (27, 66, 42))):
        for side, sign in (("left", -1), ("right", 1)):
            paint(f"{side} cerebral {part}", (sign * 34, 0, 10), radii)
    for side, sign in (("left", -1), ("right", 1)):
        for name, centre, radii in (
            ("lateral ventricle", (12, 5, 22), (6, 30, 10)),
            ("caudate nucleus", (20, 20, 18), (6, 14, 9)),
            ("thalamus", (13, -15, 8), (9, 15, 11)),
            ("putamen", (32, 8, 4), (7, 16, 10)),
            ("globus pallidus", (24, 4, 2), (5, 10, 7)),
            ("hippocampus", (30, -18, -14), (8, 20, 7)),
            ("amygdala", (24, 4, -16), (8, 8, 7)),
            ("nucleus accumbens", (13, 14, -2), (5, 6, 5)),
            ("ventral diencephalon", (11, -12, -8), (8, 12, 7)),
        ):
            paint(f"{side} {name}", (sign * centre[0], centre[1], centre[2]), radii)
    paint("third ventricle", (0, -5, 5), (3, 10, 8))
    paint("brain-stem", (0, -25, -40), (12, 13, 28))
    paint("fourth ventricle", (0, -38, -40), (5, 5, 9))
    means = np.concatenate([[8.0], 60.0 + 5.0 * np.arange(len(BRAIN))]).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    return means[labels] + noise, labels, Grid(shape, affine)


def centre_of(picture: np.ndarray, color: tuple[int, int, int]) -> tuple[float, float]:
    """(row, column) of what is drawn in the hue of a colour, as shares of the picture's height and width."""
    wanted = np.array(color, float) / np.linalg.norm(color)
    length = np.linalg.norm(picture, axis=2)
    alike = (picture @ wanted > 0.985 * length) & (length > 60)
    rows, columns = np.nonzero(alike)
    return float(rows.mean() / picture.shape[0]), float(columns.mean() / picture.shape[1])


ORGANS: dict[str, Any] = {
    "name": "organs",
    "source": "Atlas of 1999.",
    "structures": [
        {"name": "kidney", "paired": True, "color": [10, 20, 30], "plausible_ml": [2, 200]},
        {"name": "right atrium", "side": "right", "color": [1, 2, 3]},
        {"name": "atrium", "color": [255, 0, 128]},
        {"name": "spleen"},
    ],
}


def organs(table: LabelTable | None = None, **others: Any) -> StudyReport:
    """Blocks in voxels of 0.125 ml: left kidney 1 ml, right kidney 3 ml, right atrium 4 ml, atrium 2 ml."""
    labels = np.zeros((20, 20, 10), np.uint8)
    for value, (start, stop) in {1: (1, 2), 2: (4, 7), 3: (8, 12), 4: (14, 16)}.items():
        labels[start:stop, 2:4, 2:6] = value
    image = np.where(labels == 2, 1234.0, np.where(labels == 1, 12.34, 0)).astype(np.float32)
    grid = Grid(labels.shape, ras_affine(5.0, labels.shape))
    return make_report("organs", labels, grid, table or load_label_table(ORGANS), image, **others)
