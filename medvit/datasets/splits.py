"""Cases for training and for validation: by the manifest, by patient, or in folds."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import MedvitError
from medvit.studies.manifests import Case, Manifest, read_manifest
from medvit.studies.manifests.cases import named_cases, why_empty

VALIDATION, TEST = ("validation", "val", "valid"), ("test", "testing")
_NNUNET_FOLDS = 5
# Forms of ids in which one patient has several cases: BIDS, BraTS, ACDC and PI-CAI.
_PATIENT = re.compile(r"(sub-[^_]+)_.*|(BraTS\D*\d+)-\d+|(patient\d+)_frame\d+|(\d{5})_\d{7}")


@dataclass(frozen=True)
class Split:
    """The labelled cases of a data set, divided into training and validation.

    Parameters
    ----------
    manifest
        Description of the data set.
    training, validation
        Cases with label maps.
    rule
        How they were divided, in a clause.
    """

    manifest: Manifest
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    rule: str


def split_cases(
    manifest: str | Path | Manifest,
    folder: str | Path = "",
    val_fraction: float = 0.2,
    seed: int = 0,
    left_out: Collection[str] = (),
    folds: int = 0,
    fold: int = 0,
) -> Split:
    """Cases for training and cases for validation.

    Fold number `fold` of `folds` is kept for validation. Without folds it is the validation split of the
    manifest, or otherwise a share of the patients, drawn with the seed. Cases belong to one patient if ids in
    the form of BIDS, BraTS, ACDC or PI-CAI say so. Cases of a test split and cases without a label map are
    never used.

    Parameters
    ----------
    manifest
        Manifest of the data set, or the path of its file.
    folder
        Folder of the data set; empty for the folder of the manifest.
    val_fraction
        Share of patients for validation, in [0, 1). Unless it is 0, at least one of two or more patients.
    seed
        Seed of the draw.
    left_out
        Ids of cases not to use.
    folds
        Number of parts with nearly equal numbers of patients, drawn with the seed from all cases in whatever
        split; 0 for none.
    fold
        Number of the part for validation, from 0.

    Raises
    ------
    MedvitError
        If there are fewer patients than folds or no such fold, there are no cases to train on, or the
        manifest does not describe a segmentation.
    """
    manifest = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    folder = Path(folder) if folder else manifest.path.parent
    cases = [case for case in _usable(manifest, folder) if case.id not in left_out]
    held_out = [case for case in cases if set(VALIDATION) & set(manifest.splits_of(case.id))]
    if folds:
        held_out = _of_patients(cases, lambda ids: patients_of_fold(ids, folds, fold, seed))
        rule = f"fold {fold} of {folds}, drawn by patient, seed {seed}"
    elif held_out:
        rule = "the validation split of the manifest"
    else:
        held_out = _of_patients(cases, lambda ids: drawn_patients(ids, val_fraction, seed))
        rule = f"drawn by patient, seed {seed}" if held_out else "none: nothing is measured"
    training = tuple(case for case in cases if case not in held_out)
    if not training:
        raise MedvitError(f"{folder}: no labelled case of {manifest.name} is left to train on")
    return Split(manifest, training, tuple(held_out), rule)


def _usable(manifest: Manifest, folder: Path) -> list[Case]:
    """The cases with label maps that are in no test split."""
    if manifest.labels is None:
        raise MedvitError(f"{manifest.path} does not describe a segmentation: it lists no labels to train on")
    found = named_cases(manifest, folder)
    if not found:
        raise MedvitError(why_empty(manifest, folder))
    labelled = [case for case in found if case.label is not None]
    return [case for case in labelled if not set(TEST) & set(manifest.splits_of(case.id))]


def _of_patients(cases: Sequence[Case], chosen: Callable[[Sequence[str]], Set[str]]) -> list[Case]:
    held_out = chosen([patient_of(case.id) for case in cases])
    return [case for case in cases if patient_of(case.id) in held_out]


def drawn_patients(patients: Iterable[str], share: float, seed: int) -> set[str]:
    """A share of the patients, drawn with the seed: at least one and never all, unless the share is 0."""
    people = sorted(set(patients))
    count = min(max(round(share * len(people)), 1), len(people) - 1) if share > 0 else 0
    return set(np.random.default_rng(seed).permutation(people)[:count].tolist())


def patients_of_fold(patients: Iterable[str], folds: int, fold: int, seed: int) -> set[str]:
    """The patients of one of several parts of nearly equal size, drawn with the seed.

    Raises
    ------
    MedvitError
        If there are fewer patients than folds, or no such fold.
    """
    people = sorted(set(patients))
    if folds < 2 or not 0 <= fold < folds:
        raise MedvitError(f"--folds {folds} --fold {fold}: two or more folds are numbered from 0")
    if len(people) < folds:
        raise MedvitError(f"{len(people)} patients cannot be divided into {folds} folds: use fewer --folds")
    return set(np.array_split(np.random.default_rng(seed).permutation(people), folds)[fold].tolist())


def patient_of(case_id: str) -> str:
    """The part of a case's id that names its patient; the whole id if its form is unknown.

    Examples
    --------
    >>> patient_of("sub-07_ses-2_T1w"), patient_of("BraTS-GLI-00012-001"), patient_of("case_3")
    ('sub-07', 'BraTS-GLI-00012', 'case_3')
    """
    match = _PATIENT.fullmatch(case_id)
    return next(group for group in match.groups() if group) if match else case_id


def nnunet_fold(
    cases: Sequence[Mapping[str, Any]], fold: int = 0, *, by_patient: bool = False
) -> dict[str, list[Mapping[str, Any]]]:
    """One of the five folds into which nnU-Net divides the cases of a data set.

    Parameters
    ----------
    cases
        Five or more, in order of their identifiers.
    fold
        Number of the fold, 0 to 4.
    by_patient
        Divide patients instead, whose cases stay together; nnU-Net itself does not. Cases then state their
        identifier under ``filename_or_obj``.

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
    people = [patient_of(str(case["filename_or_obj"])) if by_patient else n for n, case in enumerate(cases)]
    each = list(dict.fromkeys(people))
    if len(each) < _NNUNET_FOLDS or not 0 <= fold < _NNUNET_FOLDS:
        what = "patients" if by_patient else "cases"
        raise MedvitError(f"{len(each)} {what} have no fold {fold}: five or more have the folds 0 to 4")
    order = np.arange(len(each))
    np.random.RandomState(12345).shuffle(order)
    held_out = {each[number] for number in np.array_split(order, _NNUNET_FOLDS)[fold].tolist()}
    return {
        "train": [case for case, one in zip(cases, people, strict=True) if one not in held_out],
        "validation": [case for case, one in zip(cases, people, strict=True) if one in held_out],
    }
