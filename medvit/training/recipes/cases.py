"""The cases of a data set as a MONAI data list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvit.datasets import Case, find_cases, read_manifest
from medvit.errors import MedvitError

_FOLDS = 5


def case_list(manifest: str | Path, folder: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """What a MONAI data set takes: a dictionary of file names for each case.

    Parameters
    ----------
    manifest
        Of the data set: a file, or the name of one that comes with medvit.
    folder
        Where the data set lies.
    split
        The cases to take; ``None`` for all that have a label map or a target.

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
        Where the data set lies.
    fold
        To hold out.

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


def nnunet_fold(cases: Sequence[Mapping[str, Any]], fold: int = 0) -> dict[str, list[Mapping[str, Any]]]:
    """One of the five folds into which nnU-Net divides the cases of a data set.

    Parameters
    ----------
    cases
        Of `case_list`, in order of their identifiers, five or more.
    fold
        0 ... 4.

    Returns
    -------
    dict
        The cases to ``train`` on and those for ``validation``.

    Raises
    ------
    MedvitError
        If there are too few cases, or no such fold.

    Notes
    -----
    nnU-Net shuffles identifiers by scikit-learn's ``KFold(5, shuffle=True, random_state=12345)``; the same
    generator is used here.
    """
    if len(cases) < _FOLDS or not 0 <= fold < _FOLDS:
        raise MedvitError(f"{len(cases)} cases have no fold {fold}: five or more have the folds 0 to 4")
    order = np.arange(len(cases))
    np.random.RandomState(12345).shuffle(order)
    held_out = set(np.array_split(order, _FOLDS)[fold].tolist())
    return {
        "train": [case for number, case in enumerate(cases) if number not in held_out],
        "validation": [case for number, case in enumerate(cases) if number in held_out],
    }


def _as_item(case: Case) -> dict[str, Any]:
    label = case.label or case.target
    if label is None:
        raise MedvitError(
            f"case {case.id} has no label map and nothing to be restored to: choose another split"
        )
    images = [str(path) for path in case.images]
    image = images[0] if len(images) == 1 else images
    return {"filename_or_obj": case.id, "image": image, "label": str(label)}
