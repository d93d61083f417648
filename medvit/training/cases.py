"""The labelled cases of a data set: found, split by patient, and read whole for validation."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch.utils.data import Dataset

from medvit.datasets import Case, Manifest, read_manifest
from medvit.datasets.annotation import read_annotation
from medvit.errors import MedvitError, StudyError
from medvit.studies import LoadedStudy, Study, only_study, read_study
from medvit.studies.manifests.cases import named_cases, why_empty
from medvit.studies.study import Series

TRAINING, VALIDATION, TEST = ("training", "train"), ("validation", "val", "valid"), ("test", "testing")
# Ids in which a patient comes several times: BIDS, BraTS and ACDC.
_PATIENT = re.compile(r"(sub-[^_]+)_.*|(BraTS\D*\d+)-\d+|(patient\d+)_frame\d+")


@dataclass(frozen=True)
class Split:
    """The labelled cases of a data set, apart for two purposes.

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
    """Cases to train on and cases to validate on.

    Of `folds`, the one of number `fold` is kept apart. Without them the manifest's validation split is, or
    else a share of the patients, drawn with the seed. Ids as in BIDS, BraTS and ACDC tell which cases are of
    one patient. Cases of a test split and cases without a label map are never used.

    Parameters
    ----------
    manifest
        Manifest of the data set, or the path of its file.
    folder
        Folder of the data set; empty for the folder of the manifest.
    val_fraction
        Share of patients to validate on, in [0, 1). Unless it is 0, at least one of two or more patients.
    seed
        Seed of the draw.
    left_out
        Ids of cases not to use.
    folds
        Number of parts of nearly equal numbers of patients, drawn with the seed from all cases, whatever
        split they are in; 0 for none.
    fold
        Number of the part to validate on, from 0.

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
        held_out = _part(cases, folds, fold, seed)
        rule = f"fold {fold} of {folds}, drawn by patient, seed {seed}"
    elif held_out:
        rule = "the validation split of the manifest"
    else:
        held_out = _drawn(cases, val_fraction, seed)
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


def _drawn(cases: Sequence[Case], share: float, seed: int) -> list[Case]:
    patients = sorted({patient_of(case.id) for case in cases})
    count = min(max(round(share * len(patients)), 1), len(patients) - 1) if share > 0 else 0
    chosen = set(np.random.default_rng(seed).permutation(patients)[:count].tolist())
    return [case for case in cases if patient_of(case.id) in chosen]


def _part(cases: Sequence[Case], folds: int, fold: int, seed: int) -> list[Case]:
    patients = sorted({patient_of(case.id) for case in cases})
    if folds < 2 or not 0 <= fold < folds:
        raise MedvitError(f"--folds {folds} --fold {fold}: two or more folds are numbered from 0")
    if len(patients) < folds:
        raise MedvitError(f"{len(patients)} patients cannot be divided into {folds} folds: use fewer --folds")
    chosen = set(np.array_split(np.random.default_rng(seed).permutation(patients), folds)[fold].tolist())
    return [case for case in cases if patient_of(case.id) in chosen]


def patient_of(case_id: str) -> str:
    """The part of a case's id that names its patient; the whole id where it does not tell.

    Examples
    --------
    >>> patient_of("sub-07_ses-2_T1w"), patient_of("BraTS-GLI-00012-001"), patient_of("case_3")
    ('sub-07', 'BraTS-GLI-00012', 'case_3')
    """
    match = _PATIENT.fullmatch(case_id)
    return next(group for group in match.groups() if group) if match else case_id


def study_of(case: Case, channels: int) -> Study:
    """The images of a case as a study with one series a channel.

    Raises
    ------
    StudyError
        If a file is missing, or the number of channels differs from the manifest's.
    """
    for path in case.paths:
        if not path.exists():
            raise StudyError("missing-file", "does not exist", path=path, do="check the data set")
    wanted = channels if len(case.images) == 1 else 1
    series: list[Series] = []
    for path in case.images:
        series += only_study(path, channels=wanted).series
    if len(series) != channels:
        what = f"begins a case of {len(series)} images where the manifest names {channels} channels"
        raise StudyError("channels-missing", what, path=case.images[0], do="list one image per channel")
    return Study(case.id, tuple(series))


def read_case(case: Case, manifest: Manifest) -> tuple[LoadedStudy, np.ndarray]:
    """The study of a case, and its label map (X, Y, Z) on the same grid.

    Raises
    ------
    StudyError
        If either cannot be read with one meaning, or they do not lie on one grid.
    """
    study = read_study(study_of(case, len(manifest.channels)))
    assert case.label is not None, "cases to train on have label maps"
    return study, read_annotation(case.label, study.grid, manifest)


class WholeCases(Dataset):
    """Whole studies for validation: preprocessed as for inference, the label map on the study's own grid.

    Parameters
    ----------
    cases
        Cases with label maps.
    manifest
        Description of the data set.
    preprocessing
        Preprocessing of the bundle, from ``{"image": Study}`` to a tensor.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        manifest: Manifest,
        preprocessing: Callable[[dict[str, Any]], Mapping[str, Any]],
    ) -> None:
        self.cases, self.manifest, self.preprocessing = cases, manifest, preprocessing

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``image`` (C, X, Y, Z) and ``label`` (1, X', Y', Z') int64."""
        study, labels = read_case(self.cases[index], self.manifest)
        image: MetaTensor = self.preprocessing({"image": study})["image"]
        return {"image": image, "label": torch.from_numpy(labels.astype(np.int64))[None]}


def as_batch(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One study as a batch, which keeps the meta data that say where it lies."""
    [item] = items
    return {key: value[None] for key, value in item.items()}
