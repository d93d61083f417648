"""Pictures of a label map on its image: slices through every structure's largest extent, and a montage."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medvit.reports.display import NORMAL_AXIS, PLANES, Display, Plane
from medvit.reports.orientation import to_display_order
from medvit.studies.study import Grid

# A slice shows a structure well when it cuts at least this share of the structure's largest section.
WELL_SHOWN = 0.85
FILL = 0.38
MAX_STRETCH = 25.0

_EDGES = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}


@dataclass(frozen=True)
class Picture:
    """A picture and its content.

    Parameters
    ----------
    pixels
        (rows, columns, 3) uint8.
    kind
        A plane, ``"montage"``, or ``"surface"``, which is ``"surfaces"`` with a second row.
    index
        Slice, counted from 1 in display order (from the patient's right, front or head); 0 for no slice.
    values
        Labels for which the picture was chosen, or that it shows.
    """

    pixels: np.ndarray
    kind: str
    index: int = 0
    values: tuple[int, ...] = ()

    def encode(self, quality: int = 88) -> bytes:
        """JPEG with full colour resolution."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
        return buffer.getvalue()


def choose_slices(labels: np.ndarray, plane: Plane, most: int = 6) -> list[tuple[int, tuple[int, ...]]]:
    """The fewest slices (greedily) that show every structure near its largest section.

    Parameters
    ----------
    labels
        (X, Y, Z) label map in display order.
    plane
        Plane in which to cut.
    most
        Upper bound; structures beyond it go unshown, smallest groups first.

    Returns
    -------
    list of (slice index, values shown well there), in order of the index; the middle slice when nothing
    is labelled.
    """
    areas = section_areas(labels, plane)
    values = np.flatnonzero(areas.max(axis=1) > 0)
    if not values.size:
        return [(areas.shape[1] // 2, ())]
    relative = areas[values] / areas[values].max(axis=1, keepdims=True)
    waiting = np.ones(len(values), bool)
    chosen: list[tuple[int, tuple[int, ...]]] = []
    while waiting.any() and len(chosen) < most:
        score = ((relative >= WELL_SHOWN) * (1 + relative))[waiting].sum(axis=0)
        index = int(score.argmax())
        shown = waiting & (relative[:, index] >= WELL_SHOWN)
        chosen.append((index, tuple(int(v) + 1 for v in values[shown])))
        waiting &= ~shown
    return sorted(chosen)


def section_areas(labels: np.ndarray, plane: Plane) -> np.ndarray:
    """Voxels of each label (rows, from value 1) in each slice of a plane (columns)."""
    slices = np.moveaxis(labels, NORMAL_AXIS[plane], 0)
    top = int(labels.max()) + 1 if labels.size else 1
    counts = [np.bincount(s.ravel(), minlength=top) for s in slices]
    return np.stack(counts, axis=1)[1:] if top > 1 else np.zeros((1, len(slices)), int)


def overlays(display: Display, height: int = 420) -> list[Picture]:
    """Slices in three planes through the structures' largest sections; one plane for a flat volume."""
    pictures = []
    for plane in PLANES:
        if min(np.delete(display.labels.shape, NORMAL_AXIS[plane])) == 1:
            continue
        for index, values in choose_slices(display.labels, plane):
            pixels = draw_slice(display, plane, index, height)
            pictures.append(Picture(pixels, plane, display.first[NORMAL_AXIS[plane]] + index + 1, values))
    return pictures


def changed_slices(display: Display, earlier: np.ndarray, grid: Grid, height: int = 420) -> list[Picture]:
    """The slice of each plane in which a study differs most from an earlier one, whose outlines are white.

    Parameters
    ----------
    earlier
        (X, Y, Z) label map of the earlier study, on the grid of the present one.
    """
    box = tuple(slice(a, a + n) for a, n in zip(display.first, display.labels.shape, strict=True))
    before = to_display_order(earlier, grid)[0][box]
    pictures = []
    for plane in PLANES:
        if min(np.delete(before.shape, NORMAL_AXIS[plane])) > 1:
            across = tuple(axis for axis in range(3) if axis != NORMAL_AXIS[plane])
            index = int(np.count_nonzero(before != display.labels, axis=across).argmax())
            pixels = draw_slice(display, plane, index, height, before)
            pictures.append(Picture(pixels, plane, display.first[NORMAL_AXIS[plane]] + index + 1))
    return pictures


def montage(display: Display, columns: int = 6, rows: int = 3, height: int = 190) -> Picture | None:
    """Evenly spaced axial slices through what is labelled, or else the whole; `None` for a single one."""
    plane = min(PLANES, key=lambda p: (_is_flat(display, p), PLANES.index(p)))
    filled = np.flatnonzero(section_areas(display.labels, plane).sum(axis=0))
    last = display.labels.shape[NORMAL_AXIS[plane]] - 1
    start, stop = (int(filled[0]), int(filled[-1])) if filled.size else (0, last)
    count = min(columns * rows, stop - start + 1)
    if count < 2:
        return None
    chosen = np.linspace(start, stop, count).round().astype(int)
    tiles = [draw_slice(display, plane, int(i), height) for i in chosen]
    columns = min(columns, count)
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-count % columns)
    grid = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return Picture(np.concatenate(grid), "montage")


def draw_slice(
    display: Display, plane: Plane, index: int, height: int, earlier: np.ndarray | None = None
) -> np.ndarray:
    """One slice with filled, outlined labels, square pixels and the sides of the patient written on it.

    Parameters
    ----------
    earlier
        (X, Y, Z) label map whose outlines are drawn in white.

    Returns
    -------
    (height, columns, 3) uint8
    """
    grey, labels = (display.cut(v, plane, index) for v in (display.grey, display.labels))
    size = _drawn_size(grey.shape, display.pixel_size(plane), height)
    base = np.asarray(Image.fromarray(np.ascontiguousarray(grey)).resize(size, Image.Resampling.BICUBIC))
    drawn = _enlarged(labels, size)
    pixels = blend(base, drawn, palette(display))
    if earlier is not None:
        pixels[_outline(_enlarged(display.cut(earlier, plane, index), size))] = 255
    sides = _EDGES[plane] if size[1] > 100 else _EDGES[plane][:2]
    return write_sides(pixels, *sides, size=max(10, height // 22))


def _enlarged(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(labels.astype(np.uint16)).resize(size, Image.Resampling.NEAREST))


def palette(display: Display) -> np.ndarray:
    """(values + 1, 3) uint8 colours by label, black for the background."""
    return np.array([(0, 0, 0), *(s.color for s in display.table)], np.uint8)


def blend(base: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Grey picture with labels filled translucently and outlined in full colour: (rows, columns, 3) uint8."""
    # The colours of each label for each grey value, inside and on its outline: fewer than there are pixels.
    strength = np.array([FILL, 0.95]).repeat(len(colors))
    strength[:: len(colors)] = 0  # the background
    grey = np.arange(256)[:, None, None]
    blended = grey * (1 - strength[:, None]) + np.tile(colors, (2, 1)) * strength[:, None] + 0.5
    return blended.astype(np.uint8)[base, labels + len(colors) * _outline(labels)]


def _outline(labels: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour, or which as such a neighbour, carry another label."""
    edge = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _is_flat(display: Display, plane: Plane) -> bool:
    return min(np.delete(display.labels.shape, NORMAL_AXIS[plane])) == 1


def _drawn_size(shape: tuple[int, ...], pixel: tuple[float, float], height: int) -> tuple[int, int]:
    """Columns and rows with square pixels; slabs thinner than 1:25 are drawn wider than they are."""
    tall, wide = shape[0] * pixel[0], shape[1] * pixel[1]
    aspect = float(np.clip(wide / tall, 1 / MAX_STRETCH, MAX_STRETCH))
    if aspect > 1.6:
        height = max(24, int(height * 1.6 / aspect))
    return max(24, round(height * aspect)), height


def write_sides(
    pixels: np.ndarray, left: str, right: str, top: str = "", bottom: str = "", *, size: int
) -> np.ndarray:
    """Write letters at the edges of a picture, (rows, columns, 3) uint8, in a font of `size` pixels."""
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size)
    wide, tall = picture.size
    for x, y, anchor, text in (
        (5, tall / 2, "lm", left),
        (wide - 5, tall / 2, "rm", right),
        (wide / 2, 4, "mt", top),
        (wide / 2, tall - 4, "mb", bottom),
    ):
        draw.text((x, y), text, "white", font, anchor=anchor, stroke_width=2, stroke_fill="black")
    return np.asarray(picture)
