"""`Manifest`: the content of a data set and the layout of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from medvit.errors import MedvitError
from medvit.studies.labels import LabelTable


@dataclass(frozen=True)
class Layout:
    """One arrangement of a data set's files in its folder, as patterns of paths below it.

    In a pattern, ``{case}`` stands for the id of a case, ``{channel}`` for the word by which file names
    distinguish channels, and ``*`` for anything within one name. A path that ends in a folder is a DICOM
    series.

    Parameters
    ----------
    images
        Pattern of the images of labelled cases, such as ``"imagesTr/{case}_{channel}.nii.gz"``. Without
        ``{channel}``, one file holds all channels.
    label
        Pattern of their label maps; empty if the data set has none.
    target
        Pattern of the target images; empty except for restoration.
    unlabelled
        Pattern of the images of cases without label maps; may be empty.
    case
        Regular expression that ids match.
    channels
        The words for ``{channel}``, in the order of the manifest's channels.
    """

    images: str
    label: str = ""
    target: str = ""
    unlabelled: str = ""
    case: str = "[^/]+"
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListedCase:
    """A case that the manifest lists itself; paths are relative to the folder, or otherwise to the manifest.

    Parameters
    ----------
    channels
        Content of its images, if the list states it case by case.
    named
        Whether the id was given and not derived from a path.
    """

    id: str
    images: tuple[str, ...]
    label: str = ""
    target: str = ""
    channels: tuple[str, ...] = ()
    named: bool = True


@dataclass(frozen=True)
class Expected:
    """Properties of a complete copy of the data set; empty if unknown.

    Parameters
    ----------
    labelled, unlabelled
        Number of cases with and without label maps.
    shape, spacing
        Least and largest along each axis of the files: voxels, and mm.
    absent
        Names of structures that may be absent from the whole data set.
    empty_labels
        Whether label maps may be empty, such as those of healthy people.
    """

    labelled: int | None = None
    unlabelled: int | None = None
    shape: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    spacing: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    absent: tuple[str, ...] = ()
    empty_labels: bool = False


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Parameters
    ----------
    url, citation, licence, access
        Home page, publication, terms of use, and how to obtain the data.
    splits
        Where the splits are published.
    """

    url: str = ""
    citation: str = ""
    licence: str = ""
    access: str = ""
    splits: str = ""


@dataclass(frozen=True)
class Manifest:
    """A data set of labelled (or degraded) images.

    Parameters
    ----------
    path
        The file from which the manifest was read.
    name, title
        Short and full name.
    modality
        ``"CT"``, ``"MR"`` or another modality of DICOM; empty if unknown.
    channels
        Content of the images of a case, in order.
    labels
        The structures, with values from 1 without a gap; ``None`` for restoration.
    values
        The value of each structure in the label maps of the files, in the table's order.
    background
        Further values in the files that count as background in this task.
    ignore
        The value of unlabelled voxels in the files, which are neither trained on nor scored.
    regions
        Structures that are scored together, by name of the region ("WT": its parts).
    splits
        Ids of cases by name of the split. An id may be a pattern (``"patient007_*"``); ``"*"`` alone stands
        for every labelled case, and ids that begin with ``!`` are excluded.
    split_sizes
        Number of cases of each split, even if its cases are not listed.
    layouts
        Possible layouts; the one that finds most images in a folder is used, otherwise the first.
    cases
        Cases that the manifest lists itself, instead of layouts.
    expected, source
        Facts about the data set.
    checksums
        ``"sha256:..."`` or ``"md5:..."`` by path below the folder, archives as they are downloaded included.
    notes
        Remarks for the user, in sentences.
    """

    path: Path
    name: str
    title: str = ""
    modality: str = ""
    channels: tuple[str, ...] = ("image",)
    labels: LabelTable | None = None
    values: tuple[int, ...] = ()
    background: tuple[int, ...] = ()
    ignore: int | None = None
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    layouts: tuple[Layout, ...] = ()
    cases: tuple[ListedCase, ...] = ()
    expected: Expected = Expected()
    source: Source = Source()
    checksums: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def known_values(self) -> frozenset[int]:
        """Every value that may occur in a label map of the data set."""
        ignored = () if self.ignore is None else (self.ignore,)
        return frozenset((0, *self.values, *self.background, *ignored))

    def splits_of(self, case: str, *, is_labelled: bool = True) -> list[str]:
        """Names of the splits that contain a case."""

        def holds(ids: tuple[str, ...]) -> bool:
            return any((is_labelled or one != "*") and fnmatchcase(case, one) for one in ids) and not any(
                one.startswith("!") and fnmatchcase(case, one[1:]) for one in ids
            )

        return [split for split, ids in self.splits.items() if holds(ids)]

    def to_table(self, label_map: np.ndarray) -> np.ndarray:
        """A label map of the files in the values of `labels`.

        Parameters
        ----------
        label_map
            Whole numbers, of any shape.

        Returns
        -------
        np.ndarray
            uint8, or uint16 for 255 structures or more, of the same shape. Unlabelled voxels (`ignore`) have
            the value after that of the last structure.

        Raises
        ------
        MedvitError
            If it has a value that the manifest does not define.
        """
        present = np.unique(label_map)
        unknown = [f"{value:g}" for value in present if value not in self.known_values]
        if unknown:
            raise MedvitError(f"the label map holds {', '.join(unknown)}, which {self.name} does not know")
        table = np.zeros(max(self.known_values) + 1, np.uint8 if len(self.values) < 255 else np.uint16)
        table[list(self.values)] = np.arange(1, len(self.values) + 1)
        if self.ignore is not None:
            table[self.ignore] = len(self.values) + 1
        return table[label_map.astype(np.intp)]
