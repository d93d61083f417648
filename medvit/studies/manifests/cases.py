"""Finding the cases of a data set in its folder, with the images, channels and label map of each."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from fnmatch import filter as matching
from itertools import chain, islice
from pathlib import Path

from medvit.errors import MedvitError
from medvit.studies.manifests.model import Layout, ListedCase, Manifest

_LOOK_INTO = 200  # levels of folders, for a data set deeper than the given folder


@dataclass(frozen=True)
class Case:
    """One case of a data set.

    Parameters
    ----------
    id
        Unique in the data set.
    images
        One file (or DICOM folder) for each channel, in the manifest's order; or one that holds all.
    label
        The label map (an image, or a DICOM SEG); ``None`` for cases that come without.
    target
        For restoration: the image that should result.
    channels
        The content of the images of this case, if it is known.
    named
        Whether the id was given and not derived from a path, which may contain a patient's name.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    target: Path | None = None
    channels: tuple[str, ...] = ()
    named: bool = True

    @property
    def is_labelled(self) -> bool:
        """Whether it has something to learn: a label map or a target."""
        return self.label is not None or self.target is not None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file or folder of the case."""
        return (*self.images, *filter(None, (self.label, self.target)))


def find_cases(manifest: Manifest, folder: str | Path, split: str | None = None) -> list[Case]:
    """The cases of a data set or of one of its splits, all of whose files exist.

    Parameters
    ----------
    manifest
        Description of the data set.
    folder
        Folder of the data set.
    split
        One of ``manifest.splits``; ``None`` for every case, those without label maps included.

    Returns
    -------
    list of Case
        In order of their ids.

    Raises
    ------
    MedvitError
        If there are none, if the split is not known or lacks cases, or if a file of a case is missing.
    """
    cases = named_cases(manifest, folder)
    if not cases:
        raise MedvitError(why_empty(manifest, Path(folder)))
    if split is not None:
        cases = _of_split(manifest, cases, split)
    for case in cases:
        if missing := [path for path in case.paths if not path.exists()]:
            raise MedvitError(
                f"case {case.id} lacks {missing[0]}; `medvit data check` lists everything that is missing"
            )
    return cases


def named_cases(manifest: Manifest, folder: str | Path) -> list[Case]:
    """Every case with at least one existing file, with the paths where its other files should be.

    Raises
    ------
    MedvitError
        If the folder does not exist, or two files claim the same place in a case.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        what = "is a file; give the folder of the data set" if folder.exists() else "does not exist"
        raise MedvitError(f"{folder} {what}")
    if manifest.cases:
        listed = [_placed(case, folder, manifest.path.parent) for case in manifest.cases]
        there = [case for case in listed if any(path.exists() for path in case.paths)]
        # Test images may have been left out as a whole.
        tests_there = any(not case.is_labelled for case in there)
        return [case for case in listed if case.is_labelled or tests_there] if there else []
    found = [_laid_out(manifest, layout, folder) for layout in manifest.layouts]
    # Label maps may have the same place in two layouts, so only the images can decide.
    return max(found, key=lambda cases: sum(path.exists() for case in cases for path in case.images))


def why_empty(manifest: Manifest, folder: Path) -> str:
    """Why no case was found in a folder and what to do, in one sentence."""
    wanted = " or ".join(layout.images for layout in manifest.layouts) or manifest.cases[0].images[0]
    if not any(folder.iterdir()):
        return f"{folder} is empty; {manifest.source.access or f'put {wanted} there'}"
    deeper = (path for path in chain(folder.glob("*/"), folder.glob("*/*/")) if path.is_dir())
    for place in chain(islice(deeper, _LOOK_INTO), islice(folder.absolute().parents, 2)):
        if named_cases(manifest, place):
            return f"{folder} holds no case of {manifest.name}, but {place} does; give that folder"
    there = ", ".join(sorted(path.name for path in islice(folder.iterdir(), 5)))
    return f"{folder} holds no case of {manifest.name}: the search was for {wanted}, and there are {there}"


def _of_split(manifest: Manifest, cases: Sequence[Case], split: str) -> list[Case]:
    if split not in manifest.splits:
        known = ", ".join(manifest.splits) or "none"
        raise MedvitError(f"{manifest.path} lists no cases for the split {split!r}; it lists {known}")
    chosen = [case for case in cases if split in manifest.splits_of(case.id, is_labelled=case.is_labelled)]
    if missing := missing_of_split(manifest, split, [case.id for case in chosen]):
        raise MedvitError(f"the split {split!r} lists {missing[0]}, but there is no such case")
    wanted = manifest.split_sizes.get(split, 1)
    if len(chosen) < wanted:
        raise MedvitError(f"only {len(chosen)} of the {wanted} cases of the split {split!r} are there")
    return chosen


def missing_of_split(manifest: Manifest, split: str, held: Sequence[str]) -> list[str]:
    """The ids and patterns of a split that none of its cases matches."""
    listed = (one for one in manifest.splits.get(split, ()) if not one.startswith("!"))
    return [one for one in listed if not matching(held, one)]


def _placed(case: ListedCase, folder: Path, beside: Path) -> Case:
    def place(path: str) -> Path:
        return beside / path if not (folder / path).exists() and (beside / path).exists() else folder / path

    label, target = (place(path) if path else None for path in (case.label, case.target))
    images = tuple(place(path) for path in case.images)
    return Case(case.id, images, label, target, case.channels, case.named)


def _laid_out(manifest: Manifest, layout: Layout, folder: Path) -> list[Case]:
    words = layout.channels or manifest.channels
    labels = _matches(folder, layout.label, layout.case)
    targets = _matches(folder, layout.target, layout.case)
    annotated = {*labels, *targets}
    others = {*labels.values(), *targets.values()}
    cases = []
    for pattern, is_labelled in ((layout.images, True), (layout.unlabelled, False)):
        # A label map named "x_seg" would otherwise be the image of a case of that name.
        patterns = _of_channels(pattern, words)
        images = [_matches(folder, one, layout.case, others) for one in patterns]
        found = set(chain(*images))
        if layout.unlabelled == layout.images:  # distinguished only by their label maps
            found = found & annotated if is_labelled else found - annotated
        for case in sorted(found | annotated if is_labelled else found):
            places = zip(patterns, images, strict=True)
            paths = (found_at.get(case) or _expected(folder, one, case) for one, found_at in places)
            label = labels.get(case) or _expected(folder, layout.label, case) if is_labelled else None
            target = targets.get(case) or _expected(folder, layout.target, case) if is_labelled else None
            cases.append(Case(case, tuple(filter(None, paths)), label, target))
    _check_unique(cases, folder)
    return cases


def _of_channels(pattern: str, words: Sequence[str]) -> list[str]:
    if not pattern:
        return []
    return list(dict.fromkeys(pattern.replace("{channel}", word) for word in words))


def _expected(folder: Path, pattern: str, case: str) -> Path | None:
    return folder / pattern.replace("{case}", case) if pattern else None


def _matches(folder: Path, pattern: str, case: str, others: Set[Path] = frozenset()) -> dict[str, Path]:
    """The paths that match a pattern and are not among `others`, by the id of their case."""
    parts = re.split(r"(\{case\}|\*)", pattern)
    globbed = "".join("*" if part in ("{case}", "*") else glob.escape(part) for part in parts)
    globbed = re.sub(r"\*{2,}", "*", globbed)  # two in a row would match folders of any depth
    expression, is_first = "", True
    for part in parts:
        if part == "{case}":
            expression += f"(?P<case>{case})" if is_first else "(?P=case)"
            is_first = False
        else:
            expression += "[^/]*" if part == "*" else re.escape(part)
    matches: dict[str, Path] = {}
    for path in sorted(folder.glob(globbed)) if pattern else ():
        match = re.fullmatch(expression, path.relative_to(folder).as_posix())
        # Archives made on macOS contain "._" files that are not images.
        if match is None or path.name.startswith(".") or path in others:
            continue
        found = match["case"]
        if found in matches:
            raise MedvitError(f"{path} and {matches[found]} are both {pattern} of the case {found}")
        matches[found] = path
    return matches


def _check_unique(cases: Sequence[Case], folder: Path) -> None:
    ids = [case.id for case in cases]
    if twice := [one for one in dict.fromkeys(ids) if ids.count(one) > 1]:
        raise MedvitError(
            f"{folder}: {twice[0]} is the id of a case with and of one without label map; rename one"
        )
