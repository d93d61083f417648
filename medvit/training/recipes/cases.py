"""The cases of a data set as a MONAI data list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medvit.datasets import Case, find_cases, read_manifest
from medvit.datasets.splits import nnunet_fold
from medvit.errors import MedvitError

__all__ = ["case_list", "listed_fold", "nnunet_fold"]


def case_list(manifest: str | Path, folder: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """What a MONAI data set takes: a dictionary of file names for each case.

    Parameters
    ----------
    manifest
        Manifest of the data set: a file, or the name of one that comes with medvit.
    folder
        Folder of the data set.
    split
        Split whose cases to take; ``None`` for all that have a label map or a target.

    Returns
    -------
    list of dict
        ``filename_or_obj``, the identifier, by which MONAI's ``MetricsSaver`` names scores; ``image``, one
        file or a list with one for each channel; ``label``, the label map, or what the image is to be
        restored to.

    Raises
    ------
    MedvitError
        If cases or their files are missing, or a case has nothing to learn from.
    """
    cases = find_cases(read_manifest(manifest), folder, split)
    return [_as_item(case) for case in cases if split is not None or case.label or case.target]


def listed_fold(manifest: str | Path, folder: str | Path, fold: int = 0) -> dict[str, list[dict[str, Any]]]:
    """A fold of a datalist whose cases carry the number of the fold in which they are held out.

    Parameters
    ----------
    manifest
        A decathlon datalist with a key ``fold`` for each case, as MONAI's challenge solutions ship.
    folder
        Folder of the data set.
    fold
        Number of the fold to hold out.

    Returns
    -------
    dict
        The cases to ``train`` on and those for ``validation``.

    Raises
    ------
    MedvitError
        If the list or a file is missing, or nothing has this fold.
    """
    splits = [name for name in read_manifest(manifest).splits if name.startswith("fold")]
    lists = {split: case_list(manifest, folder, split) for split in splits}
    if f"fold{fold}" not in lists or len(lists) < 2:
        raise MedvitError(
            f"{manifest} has no fold {fold} beside others; it has {', '.join(splits) or 'none'}"
        )
    validation = lists.pop(f"fold{fold}")
    return {"train": [case for cases in lists.values() for case in cases], "validation": validation}


def _as_item(case: Case) -> dict[str, Any]:
    label = case.label or case.target
    if label is None:
        raise MedvitError(
            f"case {case.id} has no label map and nothing to be restored to: choose another split"
        )
    images = [str(path) for path in case.images]
    image = images[0] if len(images) == 1 else images
    return {"filename_or_obj": case.id, "image": image, "label": str(label)}
