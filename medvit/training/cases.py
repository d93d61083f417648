"""The labelled cases of a data set: read, and whole for validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch.utils.data import Dataset

from medvit.datasets import Case, Manifest
from medvit.datasets.annotation import read_annotation
from medvit.errors import StudyError
from medvit.studies import LoadedStudy, Study, only_study, read_study
from medvit.studies.study import Series


def study_of(case: Case, channels: int) -> Study:
    """The images of a case as a study with one series for each channel.

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
        If one of them cannot be read unambiguously, or they are on different grids.
    """
    study = read_study(study_of(case, len(manifest.channels)))
    assert case.label is not None, "cases for training have label maps"
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
    """One study as a batch, with the meta data of its place."""
    [item] = items
    return {key: value[None] for key, value in item.items()}
