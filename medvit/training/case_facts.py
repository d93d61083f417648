"""Survey of all cases before training: which are broken, and their size, spacing and intensities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import nibabel as nib
import numpy as np

from medvit.datasets import Case, Manifest
from medvit.errors import MedvitError, StudyError
from medvit.studies.study import Grid
from medvit.training.cases import read_case

_SAMPLED = 10_000  # labelled voxels of a case whose intensities are kept


@dataclass(frozen=True)
class CaseFacts:
    """What a plan needs to know about a case.

    Parameters
    ----------
    case
        Id of the case.
    shape, spacing
        Size in voxels, and spacing in mm, along the axes closest to left-right, back-front and feet-head.
    values
        The structures that occur.
    intensities
        Intensities of up to 10,000 labelled voxels, (C, N).
    """

    case: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    values: frozenset[int]
    intensities: np.ndarray


class ForegroundIntensity(NamedTuple):
    """Intensities of the labelled voxels of a training set, by which nnU-Net scales CT.

    Parameters
    ----------
    lower, upper
        0.5 and 99.5 percentile.
    mean, std
        Mean and standard deviation of all sampled voxels.
    """

    lower: float
    upper: float
    mean: float
    std: float

    @classmethod
    def of(cls, voxels: np.ndarray) -> ForegroundIntensity:
        """Figures of sampled voxels; labels on a constant image get a spread to divide by."""
        lower, upper = np.percentile(voxels, [0.5, 99.5])
        lower, upper = (lower, upper) if upper > lower else (lower - 0.5, lower + 0.5)
        return cls(float(lower), float(upper), float(voxels.mean()), float(voxels.std()) or 1.0)


def survey(
    cases: Sequence[Case],
    manifest: Manifest,
    *,
    skip_bad: bool = False,
    say: Callable[[str], object] = print,
) -> list[CaseFacts]:
    """Read every case once.

    Parameters
    ----------
    skip_bad
        Leave broken cases out, each named with its fault; otherwise nothing is trained.
    say
        Function that takes the sentences about cases left out.

    Raises
    ------
    MedvitError
        With the name and the fault of every broken case.
    """
    facts, faults = [], []
    for case in cases:
        try:
            facts.append(_facts(case, manifest))
        except StudyError as error:
            faults.append(f"{case.id}: {error}")
    if faults and not (skip_bad and facts):
        raise MedvitError(
            f"{len(faults)} of {len(cases)} cases cannot be used for training; correct them, "
            "or leave them out with --skip-bad:\n  " + "\n  ".join(faults)
        )
    for fault in faults:
        say(f"left out: {fault}")
    return facts


def _facts(case: Case, manifest: Manifest) -> CaseFacts:
    study, labels = read_case(case, manifest)
    labels[labels > len(manifest.labels or ())] = 0  # unlabelled voxels
    foreground = np.flatnonzero(labels)
    chosen = np.random.default_rng(0).choice(foreground, min(_SAMPLED, len(foreground)), replace=False)
    voxels = study.image.numpy().reshape(len(study.image), -1)[:, chosen]
    shape, spacing = upright(study.grid)
    values = frozenset(np.flatnonzero(np.bincount(labels.ravel())).tolist()) - {0}
    return CaseFacts(case.id, shape, spacing, values, voxels)


def upright(grid: Grid) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Shape and spacing along the patient's axes that the grid's are closest to."""
    order = np.argsort(nib.orientations.io_orientation(grid.affine)[:, 0])
    x, y, z = (int(axis) for axis in order)
    shape, spacing = grid.shape, grid.spacing
    return (shape[x], shape[y], shape[z]), (spacing[x], spacing[y], spacing[z])
