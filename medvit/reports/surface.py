"""Surface renderings of a label map without a GPU: parallel rays meet the smoothed surface, shaded there."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from medvit.reports.display import Display
from medvit.reports.pictures import Picture, palette, write_sides
from medvit.studies.labels import LabelTable

# A structure with less than this share of all that is labelled is also shown without the larger ones.
SMALL_SHARE = 0.03

# The axis of each view, whether it looks from its far end, whether the picture is mirrored for that,
# and the labels at its left and right. Display axes run right to left, front to back, head to feet.
VIEWS = (
    (0, True, False, "AP"),  # from the patient's left
    (1, False, False, "RL"),  # from the front
    (2, False, True, "LR"),  # from above, face upwards
)
_LIGHT = np.array((0.82, -0.42, -0.40))


def render_surface(display: Display, size: int = 320, max_voxels: float = 3e6) -> Picture | None:
    """Views from the left, the front and above; a second row leaves out the large structures.

    Parameters
    ----------
    display
        Study in display order.
    size
        Height and width of each view in pixels.
    max_voxels
        Approximate number of voxels to which the label map is reduced, which keeps it under a CPU second.

    Returns
    -------
    `None` when nothing solid is labelled, or the volume is too flat to have a surface. Fluids around the
    organs (structures that the table calls a body substance) would hide them and are left out.
    """
    solid = _keep(display.labels, [s.value for s in display.table if s.category.meaning != "Body Substance"])
    if min(solid.shape) < 4 or not solid.any():
        return None
    labels, spacing = _thin(solid, np.array(display.spacing), max_voxels)
    rows = [_row(labels, spacing, palette(display), size)]
    small = _keep(labels, _small_structures(labels, display.table))
    if small.any() and (labels != small).any():
        rows.append(_row(*_thin(small, spacing, max_voxels), palette(display), size))
    kind = "surface" if len(rows) == 1 else "surfaces"
    return Picture(np.concatenate(rows), kind, values=tuple(int(v) for v in np.unique(labels) if v))


def _keep(labels: np.ndarray, values: list[int]) -> np.ndarray:
    table = np.zeros(max(int(labels.max(initial=0)), max(values, default=0)) + 1, labels.dtype)
    table[values] = values
    return table[labels]


def _small_structures(labels: np.ndarray, table: LabelTable) -> list[int]:
    counts = np.bincount(labels.ravel(), minlength=len(table) + 1)[1:]
    return [int(v) + 1 for v in np.flatnonzero(counts < SMALL_SHARE * counts.sum())]


def _thin(labels: np.ndarray, spacing: np.ndarray, max_voxels: float) -> tuple[np.ndarray, np.ndarray]:
    """Crop to what is labelled, take voxels at about equal distances, and add a margin of background."""
    (box,) = ndimage.find_objects((labels > 0).astype(np.uint8))
    cropped = labels[box]
    edge = (np.prod(np.array(cropped.shape) * spacing) / max_voxels) ** (1 / 3)
    steps = np.maximum(1, (edge / spacing).round().astype(int))
    thinned = cropped[:: steps[0], :: steps[1], :: steps[2]]
    return np.pad(thinned, 3), spacing * steps


def _row(labels: np.ndarray, spacing: np.ndarray, colors: np.ndarray, size: int) -> np.ndarray:
    field = ndimage.gaussian_filter((labels > 0).astype(np.float32), 0.9 * spacing.min() / spacing)
    scale = (size - 32) / float((np.array(labels.shape) * spacing).max())
    views = []
    for axis, far, mirrored, sides in VIEWS:
        view = _view(field, labels, spacing, colors, axis, far, scale, size)
        view = view[:, ::-1] if mirrored else view
        views.append(write_sides(view, *sides, size=max(10, size // 22)))
    return np.concatenate(views, axis=1)


def _view(
    field: np.ndarray, labels: np.ndarray, spacing: np.ndarray, colors: np.ndarray,
    axis: int, far: bool, scale: float, size: int,
) -> np.ndarray:  # fmt: skip
    """One view, (size, size, 3) uint8 on white; `scale` in pixels per mm."""
    field, labels = (np.moveaxis(v, axis, 0) for v in (field, labels))
    if far:
        field, labels = field[::-1], labels[::-1]
    across = np.delete(spacing, axis)
    depth, hit = _first_crossing(field)
    shade = _shade(depth * spacing[axis], across)
    value = np.take_along_axis(labels, (labels > 0).argmax(axis=0)[None], 0)[0]
    hit &= value > 0
    rgb = np.where(hit[..., None], colors[value] * shade[..., None], 255.0)
    picture = Image.fromarray(rgb.clip(0, 255).astype(np.uint8).transpose(1, 0, 2))
    wide, tall = (max(1, round(n * s * scale)) for n, s in zip(labels.shape[1:], across, strict=True))
    picture = picture.resize((wide, tall), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(picture, ((size - wide) // 2, (size - tall) // 2))
    return np.asarray(canvas)


def _first_crossing(field: np.ndarray, level: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Where rays along axis 0 first rise above `level`, in fractions of a voxel, and which rays do."""
    inside = field > level
    hit = np.asarray(inside.any(axis=0))
    first = np.maximum(inside.argmax(axis=0), 1)
    behind, before = (np.take_along_axis(field, i[None], 0)[0] for i in (first, first - 1))
    part = (behind - level) / np.maximum(behind - before, 1e-6)
    return np.where(hit, first - part.clip(0, 1), float(len(field) - 1)), hit


def _shade(depth: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Lambert shading of a surface given as depth in mm: 0.3 (turned away) to 1."""
    slopes = np.gradient(depth, *across)
    normal = np.stack([np.ones_like(depth), *(s.clip(-4, 4) for s in slopes)])
    normal /= np.linalg.norm(normal, axis=0)
    light = _LIGHT / np.linalg.norm(_LIGHT)
    return 0.3 + 0.7 * np.tensordot(light, normal, 1).clip(0, 1)
