"""Grouping of files into the channels of one study by the naming of nnU-Net, BraTS and BIDS."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from medvit.studies.formats import IMAGE_SUFFIXES

# The words for each contrast; the first is that of BraTS 2023.
SYNONYMS = (
    ("t1n", "t1", "t1w", "t1pre"),
    ("t1c", "t1ce", "t1gd", "t1post", "t1wce"),
    ("t2w", "t2"),
    ("t2f", "flair", "t2flair", "fla"),
    ("pd", "pdw"),
    ("ct",),
    ("pet",),
    ("dwi",),
    ("adc",),
    ("swi",),
)
_CANONICAL = {word: words[0] for words in SYNONYMS for word in words}
# Image types of BIDS that are not anatomical (https://bids-specification.readthedocs.io).
_BIDS_OTHER = {"func", "dwi", "fmap", "perf", "meg", "eeg", "ieeg", "beh", "motion", "nirs"}
_LABEL_WORDS = {"seg", "dseg", "mask", "label", "labels", "pred", "probseg", "aparc", "segmentation"}
_LABEL_FOLDERS = {"labelstr", "labelsts", "derivatives"}


def stem_of(path: Path) -> str:
    """The name of an image file without its suffix, the two of ``.nii.gz`` included."""
    name = path.name
    suffix = next((s for s in IMAGE_SUFFIXES if name.lower().endswith(s)), path.suffix)
    return name[: len(name) - len(suffix)]


def canonical(channel: str) -> str:
    """One word for all spellings of a contrast: ``"T1ce"`` and ``"t1Gd"`` are both ``"t1c"``."""
    word = re.sub(r"[^a-z0-9]", "", channel.lower())
    return _CANONICAL.get(word, word)


def split_channel(stem: str) -> tuple[str, str | None]:
    """The name that the channels of a study share, and the channel: a number for nnU-Net, else a contrast.

    Examples
    --------
    >>> split_channel("case_07_0001")
    ('case_07', '1')
    >>> split_channel("BraTS-GLI-00001-000-t2f")
    ('BraTS-GLI-00001-000', 't2f')
    >>> split_channel("sub-01_ce-gad_T1w")
    ('sub-01', 't1c')
    >>> split_channel("scan")
    ('scan', None)
    """
    numbered = re.fullmatch(r"(.+)_(\d{4})", stem)
    if numbered:
        return numbered[1], str(int(numbered[2]))
    head, last = re.fullmatch(r"(?:(.*)[-_.])?(.*)", stem).groups(default="")  # type: ignore[union-attr]
    if canonical(last) not in _CANONICAL.values():
        return stem, None
    enhanced = re.search(r"_ce-[a-zA-Z0-9]+", head)
    if enhanced and canonical(last) == "t1n":
        return head.replace(enhanced[0], ""), "t1c"
    return head, canonical(last)


def why_not_an_image(path: Path) -> str:
    """Why an image file should not be processed, judged by its path below the input; empty if it should."""
    for folder in path.parts[:-1]:
        if folder.lower() in _LABEL_FOLDERS:
            return f"the folder {folder} holds results or label maps"
    stem = stem_of(path)
    if stem.startswith("sub-") and path.parent.name in _BIDS_OTHER:
        return f"is {path.parent.name} data of a BIDS data set"
    if re.split(r"[-_.]", stem.lower())[-1] in _LABEL_WORDS:
        return "is named as a label map"
    return ""


def group(images: Mapping[Path, Path]) -> dict[Path, dict[str, list[Path]]]:
    """Images by the common part of their paths, then by channel ("" if the name has none).

    Parameters
    ----------
    images
        Each with its path below the input.
    """
    groups: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path, known_as in images.items():
        prefix, channel = split_channel(stem_of(known_as))
        groups[known_as.parent / prefix][channel or ""].append(path)
    return groups
