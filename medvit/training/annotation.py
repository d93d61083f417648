"""The label map of a case, from a file or a DICOM segmentation, on the voxel grid of its image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medvit.data.labels import LabelTable, Structure
from medvit.data.study import Grid
from medvit.datasets import Manifest
from medvit.errors import MedvitError, StudyError

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
_SIDES = {"7771000": "left", "24028007": "right"}  # SNOMED CT, laterality modifiers
# Of a voxel: grids that differ by less are the same to within what headers can hold.
_TOLERANCE = 0.05


def read_annotation(path: Path, grid: Grid, manifest: Manifest) -> np.ndarray:
    """A case's label map on the grid of its image, in the values of the manifest's label table.

    Parameters
    ----------
    path
        NIfTI, NRRD or MetaImage with the file values of the manifest; or a DICOM segmentation, or a folder
        with one, whose segments are matched to the table by SNOMED CT code and side, or by name.
    grid
        Of the image. The label map may store its axes otherwise, but its voxels must be the image's.

    Returns
    -------
    numpy.ndarray
        (X, Y, Z) uint8, or uint16 from 256 structures on.

    Raises
    ------
    StudyError
        If the label map cannot be read, lies on another grid, or holds what the manifest does not know.
    """
    from medvit.evaluation.sides import read_label_map

    segmentation = _segmentation_at(path)
    if segmentation is not None:
        assert manifest.labels is not None, "only segmentation data sets have label maps"
        labels, own = _read_segmentation(segmentation, manifest.labels)
        # A segmentation may leave slices without segments out.
        return _place(labels, own, grid, path, whole=False)
    values, own = read_label_map(path)
    try:
        labels = manifest.to_table(values)
    except MedvitError as error:
        raise StudyError(
            "unknown-label", str(error), path=path, do="name the value in the manifest"
        ) from None
    return _place(labels, own, grid, path, whole=True)


def _segmentation_at(path: Path) -> Path | None:
    """The DICOM segmentation that `path` is or holds; `None` for files of other formats."""
    from medvit.data.discover import format_of

    if path.is_file() and format_of(path) != "dicom":
        return None
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    found = [file for file in files if format_of(file) == "dicom" and _is_segmentation(file)]
    if len(found) != 1:
        raise StudyError(
            "not-one-segmentation", f"holds {len(found)} DICOM segmentations where one is needed",
            path=path, do="name the file of the segmentation",
        )  # fmt: skip
    return found[0]


def _is_segmentation(path: Path) -> bool:
    import pydicom

    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"], force=True)
    return str(header.get("SOPClassUID", "")) == _SEGMENTATION_STORAGE


def _read_segmentation(path: Path, table: LabelTable) -> tuple[np.ndarray, Grid]:
    """Values of `table` as far as the segmentation reaches, and the grid of that part."""
    import highdicom as hd

    seg = hd.seg.segread(path)
    lookup = np.zeros(max(seg.segment_numbers) + 1, np.uint8 if len(table) < 256 else np.uint16)
    for number in seg.segment_numbers:
        lookup[number] = _structure_of(seg.get_segment_description(number), table, path).value
    try:
        volume = seg.get_volume(combine_segments=True, dtype=np.uint16)
    except (RuntimeError, ValueError) as error:
        raise StudyError("dicom-seg-no-label-map", str(error).rstrip("."), path=path) from error
    x, y, z = volume.spatial_shape
    return lookup[volume.array], Grid((x, y, z), _RAS_FROM_LPS @ volume.affine)


def _structure_of(segment: object, table: LabelTable, path: Path) -> Structure:
    code = segment.segmented_property_type  # type: ignore[attr-defined]
    name = re.sub(r"[\s_]+", " ", str(segment.segment_label)).strip().lower()  # type: ignore[attr-defined]
    side = next(_sides(segment), "")
    for structure in table:
        coded = (structure.code.scheme, structure.code.value) == (code.scheme_designator, code.value)
        if structure.name.lower() == name or (coded and structure.side == side and _is_clear(table)):
            return structure
    raise StudyError(
        "unknown-segment",
        f"segment {segment.segment_label!r} is none of {', '.join(s.name for s in table)}",  # type: ignore[attr-defined]
        path=path,
        do="rename the segment, or add it to the labels of the manifest",
    )


def _is_clear(table: LabelTable) -> bool:
    """Whether no two structures of a side share a code, so that code and side tell a structure."""
    keys = [(s.code.scheme, s.code.value, s.side) for s in table]
    return len(set(keys)) == len(keys)


def _sides(segment: object) -> Iterator[str]:
    types = getattr(segment, "SegmentedPropertyTypeCodeSequence", ())
    for kind in types:
        for modifier in getattr(kind, "SegmentedPropertyTypeModifierCodeSequence", ()):
            if modifier.CodeValue in _SIDES:
                yield _SIDES[modifier.CodeValue]


def _place(labels: np.ndarray, own: Grid, grid: Grid, path: Path, *, whole: bool) -> np.ndarray:
    """`labels` in the index order of `grid`, zero where they do not reach."""
    to_grid = np.linalg.inv(grid.affine) @ own.affine
    steps, first, last = to_grid[:3, :3], to_grid[:3, 3], np.array(labels.shape) - 1
    lattice = np.round(steps)
    start = np.minimum(first, first + steps @ last)
    misplaced = np.abs([(steps - lattice) * last, np.tile(start - np.round(start), (3, 1))]).max()
    permutation = all((np.abs(lattice).sum(axis) == 1).all() for axis in (0, 1))
    if not permutation or misplaced > _TOLERANCE:
        raise _other_grid(path, own, grid)
    axes = np.abs(lattice).argmax(axis=0)
    backwards = tuple(a for a in range(3) if lattice[axes[a], a] < 0)
    turned = np.flip(labels, backwards).transpose(np.argsort(axes))
    if whole and turned.shape != grid.shape:
        raise _other_grid(path, own, grid)
    return _pasted(turned, np.round(start).astype(int).tolist(), grid, path, own)


def _pasted(labels: np.ndarray, start: list[int], grid: Grid, path: Path, own: Grid) -> np.ndarray:
    result = np.zeros(grid.shape, labels.dtype)
    inside = [slice(max(-s, 0), max(g - s, 0)) for s, g in zip(start, grid.shape, strict=True)]
    part = labels[tuple(inside)]
    if np.count_nonzero(part) != np.count_nonzero(labels):
        raise _other_grid(path, own, grid)
    where = tuple(slice(max(s, 0), max(s, 0) + n) for s, n in zip(start, part.shape, strict=True))
    result[where] = part
    return result


def _other_grid(path: Path, own: Grid, grid: Grid) -> StudyError:
    def shown(g: Grid) -> str:
        return f"{' x '.join(map(str, g.shape))} voxels of {' x '.join(f'{mm:.3g}' for mm in g.spacing)} mm"

    return StudyError(
        "label-other-grid",
        f"its voxels ({shown(own)}) are not those of its image ({shown(grid)})",
        path=path,
        do="save the label map on the grid of its image",
    )
