"""Division of a series into volumes by the position, content and distinguishing marks of its planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvit.errors import StudyError
from medvit.studies.dicom import mosaic, multiframe
from medvit.studies.dicom.headers import UNCOMPRESSED, Header
from medvit.studies.dicom.planes import Plane, frame_shape, single_plane
from medvit.studies.dicom.stacking import Stack, ranks, stack

# Orientations (direction cosines) and spacings (relative) count as equal within these.
SAME_ORIENTATION = 2e-4
SAME_SPACING = 1e-4
# Cosine beyond which stacks count as parallel, and the fewest planes that may be a volume of their own.
PARALLEL = 0.9999
FEWEST_PLANES = 3
# What the slices of a volume share if they state it, and how far numbers may differ (relative).
_MADE_ALIKE = {
    "echo": "EchoNumbers",
    "echo time": "EchoTime",
    "b-value": "DiffusionBValue",
    "kVp": "KVP",
    "kernel": "ConvolutionKernel",
}
ALIKE = 0.02


@dataclass(frozen=True)
class SeriesVolume:
    """A stack, and what distinguishes it from the other volumes of its series.

    Parameters
    ----------
    stack
        The planes in order, with their grid.
    label
        Such as ``"time 2"``, ``"echo 1"`` or ``"sagittal"``; ``""`` when it is the only one.
    """

    stack: Stack
    label: str


@dataclass(frozen=True)
class Incomplete:
    """A volume that lacks images which another volume of its series has.

    Parameters
    ----------
    planes
        The existing images.
    label
        As in `SeriesVolume`.
    error
        Description of what is missing.
    """

    planes: tuple[Plane, ...]
    label: str
    error: StudyError


Labelled = tuple[str, list[Plane]]


def aside(headers: Sequence[Header]) -> dict[str, list[Header]]:
    """The files of a series that do not belong to its volumes, by reason, unless they stand alone.

    Scout images always are; secondary captures, such as the dose page of a scan, where the series has
    acquired images too.
    """
    scouts = [h for h in headers if "LOCALIZER" in h.image_type]
    captures = [h for h in headers if _is_capture(h) and "LOCALIZER" not in h.image_type]
    if len(scouts) + len(captures) == len(headers):
        captures = []
    return {why: files for why, files in (("localizer", scouts), ("secondary capture", captures)) if files}


def remaining(headers: Sequence[Header], beside: dict[str, list[Header]]) -> list[Header]:
    """The files of a series that are not `aside`."""
    taken = {header.path for files in beside.values() for header in files}
    return [header for header in headers if header.path not in taken]


def _is_capture(header: Header) -> bool:
    return "Secondary Capture" in header.sop_class or "SCREEN SAVE" in header.image_type


def planes_of(header: Header) -> list[Plane]:
    """All planes of a file: one, those of an enhanced multi-frame object, or the tiles of a mosaic.

    Raises
    ------
    StudyError
        If the place, size or values of a plane are in doubt.
    """
    _check_file_size(header)
    if header.has("PerFrameFunctionalGroupsSequence"):
        return multiframe.planes(header)
    if "MOSAIC" in header.image_type:
        return mosaic.planes(header)
    return [single_plane(header)]


def _check_file_size(header: Header) -> None:
    """Refuse a file that is smaller than its pixels, which is known without reading them."""
    if header.syntax not in UNCOMPRESSED:
        return
    frames, rows, columns = frame_shape(header)
    expected = frames * rows * columns * int(header.number("BitsAllocated") or 0) // 8
    if header.path.stat().st_size < expected:
        what = f"the header declares {expected} bytes of pixels, and the file is smaller"
        raise header.fault("dicom-truncated-pixels", what, "PixelData", "fetch the file again")


def volumes(headers: Sequence[Header]) -> list[SeriesVolume | Incomplete]:
    """The volumes in the files of one series, from which the caller has removed those that are `aside`.

    Raises
    ------
    StudyError
        If the files do not belong together, or one of them makes the answer uncertain.
    """
    planes = [plane for header in headers for plane in planes_of(header)]
    for keyword, what in (
        ("PatientName", "the series holds images of patients with different names"),
        ("PatientBirthDate", "the series holds images of patients with different birth dates"),
        ("PatientSex", "the series holds images of patients of different sex"),
    ):
        _check_same(headers, keyword, what, where_stated=True)
    for keyword, what in (
        ("PatientID", "the series holds images of more than one patient"),
        ("StudyInstanceUID", "the series holds images of more than one study"),
        ("FrameOfReferenceUID", "the images do not share one frame of reference"),
        ("Modality", "the images are of more than one modality"),
        ("PhotometricInterpretation", "the images do not display their values in the same way"),
        ("Units", "the values of the images are in different units"),
    ):
        _check_same(headers, keyword, what)
    for header in headers:
        # De-identification may empty this attribute; if it is absent altogether, the file is incomplete.
        if "SeriesInstanceUID" not in header.dataset:
            raise header.fault("dicom-missing-attribute", "the attribute is missing", "SeriesInstanceUID")
    partial: list[Incomplete] = []
    groups = _by_geometry("", planes)
    for split in (_by_kind, _by_marks, _by_number):
        groups = [found for label, group in groups for found in split(label, group, partial)]
    for _, group in groups:
        _check_made_alike(group)
    return [*(SeriesVolume(stack(group), label) for label, group in groups), *partial]


def _check_same(headers: Sequence[Header], keyword: str, what: str, *, where_stated: bool = False) -> None:
    """All images, or all that state it, must have one value of an attribute, regardless of letter case."""
    values = [header.text(keyword) for header in headers]
    if where_stated:
        # In a name, other spellings follow an equals sign, and carets may end it.
        values = [value.split("=")[0].casefold().rstrip("^ ") for value in values]
    counted = [value for value in values if value or not where_stated]
    if not counted:
        return
    usual = max(set(counted), key=lambda v: (counted.count(v), v))
    for header, value in zip(headers, values, strict=True):
        if value != usual and (value or not where_stated):
            do = "put the images of each into a separate folder, or fetch the series again"
            raise header.fault("dicom-mixed-series", what, keyword, do)


def _check_made_alike(planes: list[Plane]) -> None:
    """Refuse a volume whose contrast changes from slice to slice."""
    for name, keyword in _MADE_ALIKE.items():
        stated = [plane for plane in planes if plane.marks.get(name) is not None]
        for plane in stated[1:]:
            if not _alike(plane.marks[name], stated[0].marks[name]):
                what = f"slices of one volume differ in this ({name})"
                do = "fetch the series again, or put the images of each kind into a separate folder"
                raise plane.header.fault("dicom-mixed-acquisition", what, keyword, do)


def _alike(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= ALIKE * max(abs(one), abs(other))
    return one == other


def _by_geometry(label: str, planes: list[Plane]) -> list[Labelled]:
    """Separate stacks of different orientation; a single odd image within a stack is a fault."""
    clusters: list[list[Plane]] = []
    for plane in planes:
        home = next((c for c in clusters if _difference(c[0], plane) is None), None)
        if home is None:
            clusters.append([plane])
        else:
            home.append(plane)
    clusters.sort(key=len, reverse=True)
    for cluster in clusters[1:]:
        parallel = any(abs(c[0].normal @ cluster[0].normal) > PARALLEL for c in clusters if c is not cluster)
        if parallel or len(cluster) < FEWEST_PLANES:
            odd = cluster[0]
            keyword = _difference(clusters[0][0], odd) or "ImageOrientationPatient"
            what = "this image differs from the others of its series"
            raise odd.header.fault("dicom-mixed-geometry", what, keyword, "remove it if it is a stray")
    if len(clusters) == 1:
        return [(label, planes)]
    # Ordered and named by direction, so that names do not depend on the order of the files.
    clusters.sort(key=lambda c: tuple(np.round(c[0].normal, 3)))
    names = [facing(c[0].normal) for c in clusters]
    return [
        (name if names.count(name) == 1 else f"{name} {names[:i].count(name) + 1}", cluster)
        for i, (name, cluster) in enumerate(zip(names, clusters, strict=True))
    ]


def facing(normal: np.ndarray) -> str:
    """``"axial"``, ``"coronal"`` or ``"sagittal"``, whichever the plane's normal is nearest to."""
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))]


def _difference(one: Plane, other: Plane) -> str | None:
    """The attribute in which two planes' geometry differs, if any."""
    if one.shape[0] != other.shape[0]:
        return "Rows"
    if one.shape[1] != other.shape[1]:
        return "Columns"
    if not np.allclose(one.spacing, other.spacing, rtol=SAME_SPACING, atol=0):
        return "PixelSpacing"
    if not np.allclose(one.orientation, other.orientation, rtol=0, atol=SAME_ORIENTATION):
        return "ImageOrientationPatient"
    return None


def _by_kind(label: str, planes: list[Plane], partial: list[Incomplete]) -> list[Labelled]:
    """Separate magnitude and phase, water and fat, ... by ImageType."""
    groups: dict[tuple[str, ...], list[Plane]] = {}
    for plane in planes:
        groups.setdefault(plane.kind, []).append(plane)
    if len(groups) == 1:
        return [(label, planes)]
    named = [(_joined(label, " ".join(kind)), groups[kind]) for kind in sorted(groups)]
    return _complete(planes, named, "ImageType", partial)


def _by_marks(label: str, planes: list[Plane], partial: list[Incomplete]) -> list[Labelled]:
    """Separate time points, echoes, ... if images of one place differ in a mark."""
    for name in planes[0].marks:
        groups = _apart(planes, name) if name != "image" else {}
        if len(groups) > 1:
            named = [
                (_joined(label, f"{name} {_shown(value)}"), groups[value])
                for value in sorted(groups, key=repr)
            ]
            whole = _complete(planes, named, "ImagePositionPatient", partial)
            return [found for group in whole for found in _by_marks(*group, partial)]
    return [(label, planes)]


def _by_number(label: str, planes: list[Plane], partial: list[Incomplete]) -> list[Labelled]:
    """Volumes that differ only in InstanceNumber: one after the other, each with every place once.

    Images that are numbered place by place stay together, since their order within a place has no meaning.
    """
    stated = [plane.marks.get("image") for plane in planes]
    numbers = [float(number) for number in stated if number is not None]
    rank = ranks(planes)
    if len(set(rank)) == len(planes) or len(set(numbers)) < len(planes):
        return [(label, planes)]
    runs: list[dict[int, int]] = [{}]
    for i in sorted(range(len(planes)), key=lambda i: numbers[i]):
        if rank[i] in runs[-1]:
            runs.append({})
        runs[-1][int(rank[i])] = i
    if max(map(len, runs)) < len(set(rank)) or min(map(len, runs)) < min(FEWEST_PLANES, len(set(rank))):
        return [(label, planes)]
    named = []
    for run in runs:
        first, last = (end(numbers[i] for i in run.values()) for end in (min, max))
        named.append((_joined(label, f"images {first:g} to {last:g}"), [planes[i] for i in run.values()]))
    return _complete(planes, named, "ImagePositionPatient", partial)


def _apart(planes: list[Plane], name: str) -> dict[object, list[Plane]]:
    """Planes by the value of one mark, if that separates images at one place; otherwise one group."""
    by_place: dict[int, set[object]] = {}
    groups: dict[object, list[Plane]] = {}
    for rank, plane in zip(ranks(planes), planes, strict=True):
        value = plane.marks.get(name)
        by_place.setdefault(int(rank), set()).add(value)
        groups.setdefault(value, []).append(plane)
    return groups if any(len(values) > 1 for values in by_place.values()) else {None: planes}


def _complete(
    planes: list[Plane], groups: list[Labelled], keyword: str, partial: list[Incomplete]
) -> list[Labelled]:
    """The volumes of a series that have images at all of its places; the others go to `partial`.

    Raises
    ------
    StudyError
        If none has images at all places, so that it is unknown which of them lack images.
    """
    rank = dict(zip(map(id, planes), ranks(planes), strict=True))
    places = [{rank[id(plane)] for plane in group} for _, group in groups]
    everywhere = len(set(rank.values()))
    whole = []
    for (label, group), place in zip(groups, places, strict=True):
        if len(place) == everywhere:
            whole.append((label, group))
            continue
        what = (
            f"the series holds several volumes, and one has images at {len(place)} places "
            f"while there are images at {everywhere}"
        )
        error = group[0].header.fault("dicom-incomplete-volume", what, keyword, "fetch the series again")
        if everywhere not in map(len, places):
            raise error
        partial.append(Incomplete(tuple(group), label, error))
    return whole


def _joined(label: str, more: str) -> str:
    return f"{label}, {more}" if label else more


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(_shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def only_volume(
    found: Sequence[SeriesVolume | Incomplete], label: str, headers: Sequence[Header]
) -> SeriesVolume:
    """The volume of that label, or the only one.

    Raises
    ------
    StudyError
        If there are several and none has the label, or the volume is incomplete.
    """
    chosen = [volume for volume in found if volume.label == label] if len(found) > 1 else found
    if len(chosen) == 1:
        if isinstance(chosen[0], Incomplete):
            raise chosen[0].error
        return chosen[0]
    what = f"the files hold {len(found)} volumes ({'; '.join(v.label for v in found)})"
    raise StudyError(
        "dicom-several-volumes", what, path=headers[0].path, do="choose one of the series that a scan finds"
    )
