"""Which planes of one series form which volume: by how they lie, what they show, what tells them apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medvit.errors import StudyError
from medvit.studies.dicom import mosaic, multiframe
from medvit.studies.dicom.headers import Header
from medvit.studies.dicom.planes import Plane, single_plane
from medvit.studies.dicom.stack import Stack, ranks, stack

# Orientations (direction cosines) and spacings (relative) are one to this much.
SAME_ORIENTATION = 2e-4
SAME_SPACING = 1e-4
# Cosine beyond which stacks count as parallel, and the fewest planes that may be a volume of their own.
PARALLEL = 0.9999
FEWEST_PLANES = 3


@dataclass(frozen=True)
class Volume:
    """A stack and what tells it from the other volumes of its series.

    Parameters
    ----------
    stack
        The planes in order, with their grid.
    label
        Such as ``"time 2"``, ``"echo 1"`` or ``"sagittal"``; ``""`` when it is the only one.
    """

    stack: Stack
    label: str


def is_localizer(header: Header) -> bool:
    """Whether the file is a scout image, by ImageType."""
    return "LOCALIZER" in header.image_type


def planes_of(header: Header) -> list[Plane]:
    """All planes of a file: one, those of an enhanced multi-frame object, or the tiles of a mosaic.

    Raises
    ------
    StudyError
        If the place, size or values of one are not beyond doubt.
    """
    if header.has("PerFrameFunctionalGroupsSequence"):
        return multiframe.planes(header)
    if "MOSAIC" in header.image_type:
        return mosaic.planes(header)
    return [single_plane(header)]


def volumes(headers: Sequence[Header]) -> list[Volume]:
    """The volumes that the files of one series hold, scout images left out by the caller.

    Raises
    ------
    StudyError
        If the files do not belong together, or one of them stands in the way of a sure answer.
    """
    planes = [plane for header in headers for plane in planes_of(header)]
    for keyword, what in (
        ("PatientID", "the series holds images of more than one patient"),
        ("StudyInstanceUID", "the series holds images of more than one study"),
        ("FrameOfReferenceUID", "the images do not share one frame of reference"),
        ("Modality", "the images are of more than one modality"),
        ("PhotometricInterpretation", "the images do not show their values alike"),
        ("Units", "the values of the images are in different units"),
    ):
        _check_same(headers, keyword, what)
    for header in headers:
        # De-identification may empty this attribute; where it is not even there, the file is no whole one.
        if "SeriesInstanceUID" not in header.dataset:
            raise header.fault("dicom-missing-attribute", "the attribute is missing", "SeriesInstanceUID")
    groups = [("", planes)]
    groups = [found for group in groups for found in _by_geometry(*group)]
    groups = [found for group in groups for found in _by_kind(*group)]
    groups = [found for group in groups for found in _by_marks(*group)]
    return [Volume(stack(group), label) for label, group in groups]


def _check_same(headers: Sequence[Header], keyword: str, what: str) -> None:
    values = [header.text(keyword) for header in headers]
    usual = max(set(values), key=lambda v: (values.count(v), v))
    for header, value in zip(headers, values, strict=True):
        if value != usual:
            do = "put the images of each into a folder of their own, or fetch the series again"
            raise header.fault("dicom-mixed-series", what, keyword, do)


def _by_geometry(label: str, planes: list[Plane]) -> list[tuple[str, list[Plane]]]:
    """Stacks of different orientation apart; a single odd image within a stack is a fault."""
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
            raise odd.header.fault("dicom-mixed-geometry", what, keyword, "take it away if it is a stray")
    if len(clusters) == 1:
        return [(label, planes)]
    # Ordered and named by direction, so that the names do not hang on the order of the files.
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


def _by_kind(label: str, planes: list[Plane]) -> list[tuple[str, list[Plane]]]:
    """Magnitude and phase, water and fat, ... apart, by ImageType."""
    groups: dict[tuple[str, ...], list[Plane]] = {}
    for plane in planes:
        groups.setdefault(plane.kind, []).append(plane)
    if len(groups) == 1:
        return [(label, planes)]
    _check_same_places(planes, list(groups.values()), "ImageType")
    return [(_joined(label, " ".join(kind)), groups[kind]) for kind in sorted(groups)]


def _by_marks(label: str, planes: list[Plane]) -> list[tuple[str, list[Plane]]]:
    """Time points, echoes, ... apart, where images of one place differ in a mark."""
    for name in planes[0].marks:
        groups = _apart(planes, name)
        if len(groups) > 1:
            _check_same_places(planes, list(groups.values()), "ImagePositionPatient")
            return [
                found
                for value in sorted(groups, key=repr)
                for found in _by_marks(_joined(label, f"{name} {_shown(value)}"), groups[value])
            ]
    return [(label, planes)]


def _apart(planes: list[Plane], name: str) -> dict[object, list[Plane]]:
    """Planes by one mark's value, if that tells apart images that lie at one place; else one group."""
    by_place: dict[int, set[object]] = {}
    groups: dict[object, list[Plane]] = {}
    for rank, plane in zip(ranks(planes), planes, strict=True):
        value = plane.marks.get(name)
        by_place.setdefault(int(rank), set()).add(value)
        groups.setdefault(value, []).append(plane)
    return groups if any(len(values) > 1 for values in by_place.values()) else {None: planes}


def _check_same_places(planes: list[Plane], groups: Iterable[list[Plane]], keyword: str) -> None:
    """Volumes split from one series must cover the same places, or one of them lacks a slice."""
    rank = dict(zip(map(id, planes), ranks(planes), strict=True))
    ordered = sorted(groups, key=len, reverse=True)
    places = [{rank[id(p)] for p in group} for group in ordered]
    for group, place in zip(ordered[1:], places[1:], strict=True):
        if place != places[0]:
            what = (
                f"the series holds several volumes, and one has images at {len(place)} places "
                f"while another has them at {len(places[0])}"
            )
            raise group[0].header.fault("dicom-incomplete-volume", what, keyword, "fetch the series again")


def _joined(label: str, more: str) -> str:
    return f"{label}, {more}" if label else more


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(_shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def only_volume(found: Sequence[Volume], label: str, headers: Sequence[Header]) -> Volume:
    """The volume of that label, or the only one.

    Raises
    ------
    StudyError
        If there are several and none has the label.
    """
    if len(found) == 1:
        return found[0]
    chosen = [volume for volume in found if volume.label == label]
    if len(chosen) == 1:
        return chosen[0]
    what = f"the files hold {len(found)} volumes ({'; '.join(v.label for v in found)})"
    raise StudyError(
        "dicom-several-volumes", what, path=headers[0].path, do="choose one of the series that a scan finds"
    )
