"""Checking the folder of a data set before any training: what is missing, wrong in shape, or mislabelled."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvit.datasets.findings import Findings, outside, structures_of, times
from medvit.datasets.volumes import VolumeHeader, open_volume, value_counts
from medvit.errors import StudyError
from medvit.studies.channels import canonical
from medvit.studies.formats import format_of
from medvit.studies.grids import same_voxels
from medvit.studies.manifests.cases import Case, missing_of_split, named_cases, why_empty
from medvit.studies.manifests.model import Manifest

SAME_GRID = 0.05  # in voxels: grids that differ by less are equal within the precision of headers
_BLOCK = 2**20
# Air is -1000 HU and fat about -100; a body without either has been windowed or shifted.
_CT_HAS_BELOW, _CT_HAS_ABOVE = -200.0, 20.0
_AIR_OF_CT = -900.0
# Reasons to refuse a DICOM segmentation, besides being unreadable.
_SEGMENTATION_KINDS = {"unknown-segment": "label-value", "label-other-grid": "grid"}


def check_dataset(
    manifest: Manifest,
    folder: str | Path,
    *,
    voxels: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Compare the folder of a data set with its manifest.

    Headers come first, so that missing or misplaced files are known at once. Voxels are read one file at a
    time, whatever the size of the data set.

    Parameters
    ----------
    manifest
        Description that the data set should match.
    folder
        Folder of the data set.
    voxels
        Whether to read voxels, for label values and intensities.
    progress
        Function called with the number of finished cases and of all cases.

    Returns
    -------
    Findings
        Its `problems` are empty if the data set can be trained on as it is.

    Raises
    ------
    MedvitError
        If the folder does not exist.
    """
    folder = Path(folder).expanduser()
    cases = named_cases(manifest, folder)
    found = Findings(manifest, folder)
    if not cases:
        found.add("no-cases", why_empty(manifest, folder))
        return found
    found.labelled = sum(case.is_labelled for case in cases)
    found.unlabelled = len(cases) - found.labelled
    _check_counts(found)
    _check_splits(found, cases)
    opened = [_check_headers(found, case) for case in cases]
    _check_duplicates(found, cases)
    _check_checksums(found)
    if voxels:
        found.volumes = {name: [] for name in structures_of(manifest)}
        for done, one in enumerate(opened):
            progress(done, len(cases))
            _check_intensities(found, one)
            _check_label_values(found, one)
        progress(len(cases), len(cases))
        _check_occurrence(found)
    else:
        found.notes.append("Voxels were not read, so label values and intensities were not checked.")
    return found


@dataclass(frozen=True)
class _Opened:
    """A case whose headers were read: what is missing or broken is left out."""

    case: Case
    images: tuple[VolumeHeader, ...]
    label: VolumeHeader | None
    target: VolumeHeader | None


def _check_counts(found: Findings) -> None:
    expected = found.manifest.expected
    for kind, number, wanted in (
        ("labelled", found.labelled, expected.labelled),
        ("unlabelled", found.unlabelled, expected.unlabelled),
    ):
        # Cases without labels are not used in training, so they may all be left out.
        if wanted is not None and number != wanted and not (kind == "unlabelled" and number == 0):
            found.add("count", f"there are {number} {kind} cases where {wanted} are expected")


def _check_splits(found: Findings, cases: Sequence[Case]) -> None:
    manifest = found.manifest
    members: dict[str, list[str]] = {name: [] for name in {**manifest.splits, **manifest.split_sizes}}
    for case in cases:
        splits = manifest.splits_of(case.id, is_labelled=case.is_labelled)
        if len(splits) > 1:
            found.add("split", f"is in {' and in '.join(splits)}", case.id)
        for split in splits:
            members[split].append(case.id)
    # Test images may all be left out.
    left_out = () if found.unlabelled else {c.id for c in manifest.cases if not (c.label or c.target)}
    for split, held in members.items():
        wanted = manifest.split_sizes.get(split)
        if split not in manifest.splits:
            found.notes.append(
                f"The cases of the split {split!r} are not listed, only their number, {wanted}."
            )
        elif wanted is not None and len(held) != wanted:
            found.add("split", f"{split} has {len(held)} cases where {wanted} are expected")
        for one in missing_of_split(manifest, split, held):
            if one not in left_out:
                found.add("split", f"is listed in {split}, but there is no such case", one)


def _check_headers(found: Findings, case: Case) -> _Opened:
    """The files of a case, as far as they can be read."""
    for path, kind in _parts(case):
        if not path.exists():
            found.add(f"missing-{kind}", "is not there", case.id, path)
    images = tuple(volume for path in case.images if (volume := _volume(found, case, path)))
    channels = len(found.manifest.channels)
    wanted = channels if len(case.images) == 1 else 1
    for volume in images:
        found.add_image(volume)
        if volume.count != wanted:
            what = f"holds {volume.count} volumes where {wanted} are expected"
            found.add("channels", what, case.id, volume.path)
    _check_expected_grid(found, case, images[:1])
    # A DICOM segmentation may leave slices out, and is laid onto the image's grid when it is read.
    is_file = case.label is not None and not _is_dicom(case.label)
    label = _volume(found, case, case.label) if is_file else None
    target = _volume(found, case, case.target)
    for volume in filter(None, (*images[1:], label, target)):
        # A label map may store its axes otherwise, as long as its voxels are the image's.
        if images and not (volume is label and same_voxels(volume.grid, images[0].grid, SAME_GRID)):
            _compare_grids(found, case, volume, images[0])
    return _Opened(case, images, label, target)


def _parts(case: Case) -> Iterator[tuple[Path, str]]:
    yield from ((path, "image") for path in case.images)
    if case.label is not None:
        yield case.label, "label"
    if case.target is not None:
        yield case.target, "target"


def _is_dicom(path: Path) -> bool:
    return path.is_dir() or format_of(path) == "dicom"


def _volume(found: Findings, case: Case, path: Path | None) -> VolumeHeader | None:
    if path is None or not path.exists():
        return None
    try:
        return open_volume(path)
    except StudyError as error:
        found.add("unreadable", _sentence(error), case.id, path)
        return None


def _sentence(error: StudyError) -> str:
    return f"{error.what}{'; ' + error.do if error.do else ''}"


def _compare_grids(found: Findings, case: Case, volume: VolumeHeader, first: VolumeHeader) -> None:
    own, image = volume.grid, first.grid
    if own.shape != image.shape:
        what = f"has {times(own.shape)} voxels, the image {times(image.shape)}"
    elif not own.matches(image, SAME_GRID * min(image.spacing)):
        what = f"has the image's size of {times(own.shape)} voxels, but lies elsewhere in the patient"
        if not all(abs(a - b) <= 0.01 * b for a, b in zip(own.spacing, image.spacing, strict=True)):
            what = f"has voxels of {times(own.spacing)} mm, the image {times(image.spacing)} mm"
    else:
        return
    found.add("grid", what, case.id, volume.path)


def _check_expected_grid(found: Findings, case: Case, images: Sequence[VolumeHeader]) -> None:
    expected = found.manifest.expected
    for volume in images if case.is_labelled else ():
        if expected.shape and outside(volume.grid.shape, expected.shape):
            low, high = map(times, expected.shape)
            what = f"has {times(volume.grid.shape)} voxels, where {low} to {high} are expected"
            found.add("shape", what, case.id, volume.path)
        if expected.spacing and outside(volume.grid.spacing, expected.spacing):
            low, high = map(times, expected.spacing)
            what = f"has voxels of {times(volume.grid.spacing)} mm, where {low} to {high} are expected"
            found.add("spacing", what, case.id, volume.path)


def _check_duplicates(found: Findings, cases: Sequence[Case]) -> None:
    by_size: dict[int, list[tuple[Case, Path]]] = defaultdict(list)
    for case in cases:
        for path in case.paths:
            if path.exists() and (size := sum(file.stat().st_size for file in _files_of(path))):
                by_size[size].append((case, path))
    # Files of different size cannot be copies, so only few have to be read.
    for same_size in by_size.values():
        first: dict[str, tuple[Case, Path]] = {}
        for case, path in same_size if len(same_size) > 1 else ():
            digest = _digest(_files_of(path), "sha256")
            if digest in first:
                original, at = first[digest]
                found.add("duplicate", f"is the same as {at.name} of case {original.id}", case.id, path)
            else:
                first[digest] = case, path


def _check_checksums(found: Findings) -> None:
    if not found.manifest.checksums:
        found.notes.append("The manifest has no checksums, so no file could be compared with its source.")
    absent = []
    for name, stated in found.manifest.checksums.items():
        # An archive may have been left beside the folder to which it was unpacked.
        at = next((p for p in (found.folder / name, found.folder.parent / name) if p.is_file()), None)
        method, digest = stated.split(":")
        if at is None:
            absent.append(name)
        elif _digest([at], method) != digest:
            found.add(
                "checksum", f"does not have the {method} that its source states; download it again", path=at
            )
    if absent:
        found.notes.append(f"Missing, so not compared by checksum: {', '.join(absent)}.")


def _files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _digest(files: Sequence[Path], method: str) -> str:
    digest = hashlib.new(method, usedforsecurity=False)
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _check_intensities(found: Findings, one: _Opened) -> None:
    manifest, case = found.manifest, one.case
    for volume in filter(None, (*one.images, one.target)):
        for index in range(volume.count):
            try:
                image = volume.voxels(index)
            except StudyError as error:
                found.add("unreadable", _sentence(error), case.id, volume.path)
                break
            number = (
                case.images.index(volume.path) if len(case.images) > 1 and volume in one.images else index
            )
            name = manifest.channels[min(number, len(manifest.channels) - 1)]
            is_ct = canonical(name) == "ct" or (manifest.modality == "CT" and len(manifest.channels) == 1)
            if what := _doubt(float(image.min()), float(image.max()), is_ct, manifest.modality):
                which = f"channel {name} " if len(manifest.channels) > 1 else ""
                found.add("intensity", which + what, case.id, volume.path)


def _doubt(low: float, high: float, is_ct: bool, modality: str) -> str:
    """The fault of an image with this range of values; empty if there is none."""
    if low == high:
        return f"holds nothing but the value {low:g}"
    span = f"holds values from {low:g} to {high:g}"
    if is_ct and low >= 0 and high > 1000:
        return f"{span}, which are not HU: subtract 1024 if the rescale of the DICOM images was lost"
    if is_ct and (low > _CT_HAS_BELOW or high < _CT_HAS_ABOVE):
        return f"{span}, which are not HU: the image has been windowed or rescaled"
    if modality == "MR" and low < _AIR_OF_CT:
        return f"{span}, as CT does and MR does not"
    return ""


def _check_label_values(found: Findings, one: _Opened) -> None:
    case, path = one.case, one.case.label
    if path is None or not path.exists() or found.manifest.labels is None:
        return
    try:
        counts = _label_counts(found.manifest, one)
    except StudyError as error:
        found.add(_SEGMENTATION_KINDS.get(error.code, "unreadable"), _sentence(error), case.id, path)
        return
    found.label_maps += bool(counts)
    unknown = {value: n for value, n in counts.items() if value not in found.manifest.known_values}
    if unknown:
        values = ", ".join(f"{value:g} ({_voxels(n)})" for value, n in list(unknown.items())[:8])
        more = f" and {len(unknown) - 8} further values" if len(unknown) > 8 else ""
        found.add("label-value", f"holds {values}{more}, which the manifest does not name", case.id, path)
    if counts and not set(counts) - {0} and not found.manifest.expected.empty_labels:
        found.add("label-empty", "holds no label", case.id, path)
    grid = (one.label or one.images[0]).grid if counts else None
    for name, value in structures_of(found.manifest).items():
        if grid is not None and value in counts:
            found.volumes[name].append(counts[value] * grid.voxel_volume / 1000)


def _voxels(count: int) -> str:
    return f"{count} voxel{'s' if count > 1 else ''}"


def _label_counts(manifest: Manifest, one: _Opened) -> dict[float, int]:
    """The number of voxels of each value; empty where unreadable headers prevent counting."""
    assert one.case.label is not None
    if one.label is not None:
        return value_counts(one.label)
    if not _is_dicom(one.case.label) or not one.images:
        return {}
    from medvit.datasets.annotation import read_annotation

    values = np.array((0, *manifest.values))
    labels = values[read_annotation(one.case.label, one.images[0].grid, manifest)]
    return dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True))


def _check_occurrence(found: Findings) -> None:
    for name, volumes in found.volumes.items():
        if not volumes and found.label_maps and name not in found.manifest.expected.absent:
            found.add("label-absent", f"{name} occurs in no label map")
