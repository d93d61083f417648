"""The studies of a pre-training: prepared as the bundle does, kept on disk, and divided by patient."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from monai.transforms import Compose
from rich.console import Console

from medvit.bundles import Bundle, open_bundle
from medvit.datasets.splits import drawn_patients
from medvit.errors import MedvitError
from medvit.studies import read_study
from medvit.studies.study import Study
from medvit.training.base import Recipe

LEAST_STUDIES = 5
_LABEL_VALUES = 64


@dataclass(frozen=True)
class PreparedImages:
    """Volumes on disk, with their digest, patient and modality."""

    files: list[Path]
    digests: list[str]
    patients: list[str]
    modality: str

    def split(self, fraction: float, seed: int) -> tuple[list[Path], list[Path]]:
        """Files to train on and to watch; no patient is in both."""
        watched = drawn_patients(self.patients, fraction, seed)
        both = list(zip(self.files, self.patients, strict=True))
        return [f for f, p in both if p not in watched], [f for f, p in both if p in watched]


def prepare_images(
    bundle: Bundle, inputs: Sequence[str], folder: Path, console: Console, recipe: Recipe | None = None
) -> PreparedImages:
    """The studies as arrays in a folder; files that are unsuitable for learning are left out and named.

    A bundle prepares them; a recipe may state another spacing and another final scaling of intensities.

    Raises
    ------
    MedvitError
        If the studies mix modalities, or fewer than five are left.
    """
    stated = {"spacing": recipe.spacing} if recipe and recipe.spacing else {}
    opened = open_bundle(bundle, input=list(inputs), **stated)
    dataset, transform = opened.part("dataset"), opened.part("preprocessing")
    if recipe and recipe.scaling:
        scaling = ConfigParser({"scaling": recipe.scaling}).get_parsed_content("scaling")
        transform = Compose([transform, scaling])
    found = dataset.found
    for refused in found.refused:
        console.print(f"left out: {refused.error}", markup=False, soft_wrap=True)
    files: list[Path] = []
    digests: list[str] = []
    patients: list[str] = []
    modalities: dict[str, str] = {}
    for study in found.studies:
        array = _array(study, transform, console)
        if array is None:
            continue
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        if digest in digests:
            console.print(f"left out: {study.id}: the same image as another study", markup=False)
            continue
        file = folder / f"{len(files)}.npy"
        np.save(file, array)
        files.append(file)
        digests.append(digest)
        patients.append(str(study.patient.get("id") or study.id))
        if modality := study.series[0].facts.get("modality"):
            modalities.setdefault(str(modality), study.id)
    if len(modalities) > 1:
        examples = ", ".join(f"{m} ({s})" for m, s in sorted(modalities.items()))
        raise MedvitError(f"the studies mix modalities: {examples}; pre-train on one at a time")
    if len(files) < LEAST_STUDIES:
        raise MedvitError(
            f"{len(files)} usable studies are too few to learn from; give at least {LEAST_STUDIES}"
        )
    return PreparedImages(files, digests, patients, next(iter(modalities), ""))


def _array(study: Study, transform: Any, console: Console) -> np.ndarray | None:
    try:
        loaded = read_study(study)
        values = loaded.image.numpy()
        reason = _why_unfit(values)
        if not reason:
            return transform({"image": loaded})["image"].numpy().astype(np.float16)
    except MedvitError as error:
        reason = str(error)
    console.print(f"left out: {study.id}: {reason}", markup=False, soft_wrap=True)
    return None


def _why_unfit(values: np.ndarray) -> str:
    """Why an image cannot be learned from; empty if it can."""
    if not np.isfinite(values).all():
        return "holds values that are not numbers"
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"is constant ({low:g} everywhere)"
    sample = values.reshape(-1)[:: max(values.size // 200_000, 1)]
    if np.array_equal(sample, np.round(sample)) and len(np.unique(sample)) < _LABEL_VALUES:
        return f"looks like a label map: {len(np.unique(sample))} whole values"
    return ""
