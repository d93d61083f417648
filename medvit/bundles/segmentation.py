"""From a study to its result in memory: the one way through a bundle, step by step or as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.bundles.find import Bundle
from medvit.bundles.workflow import OpenBundle, open_bundle
from medvit.studies import LoadedStudy, Study, only_study, read_study
from medvit.studies.check import Checked, check_found
from medvit.studies.labels import LabelTable
from medvit.studies.study import Grid

if TYPE_CHECKING:
    import torch
    from monai.data import MetaTensor
    from torch import nn

    from medvit.bundles.gate import Gate
    from medvit.inference.engine import WindowEngine

Transform = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """What a bundle made of a study.

    Parameters
    ----------
    study
        With the notes of the reader and of the gate.
    voxels
        (X, Y, Z) label map or restored image.
    grid
        Grid of `voxels`: that of the study, unless the bundle refines it.
    bundle
        The bundle, whose label table names the values.
    seconds
        Wall time of each stage.
    details
        What the inferer reports of its work.
    """

    study: LoadedStudy
    voxels: np.ndarray
    grid: Grid
    bundle: Bundle
    seconds: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> LabelTable | None:
        """The structures of a label map; `None` for a restored image."""
        return self.bundle.label_table

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of each structure in millilitres; empty for a restored image."""
        if self.table is None:
            return {}
        counts = np.bincount(self.voxels.ravel(), minlength=len(self.table) + 1)
        ml = self.grid.voxel_volume / 1000
        return {s.name: float(counts[s.value] * ml) for s in self.table}


def segment(bundle: Bundle | OpenBundle, study: Study | str | Path, **overrides: Any) -> Result:
    """Read a study, hold it against the bundle's scope, infer and post-process; nothing is written.

    Parameters
    ----------
    bundle
        A bundle, or one that is open already, so that its network is loaded once for many studies.
    study
        A study, or a path that holds exactly one.
    overrides
        Values of the configuration of a bundle that is not open yet, by identifier.

    Raises
    ------
    StudyError
        If the study cannot be read, or is not what the bundle is for.
    MedvitError
        If the bundle cannot be opened.

    Examples
    --------
    >>> from medvit.bundles import find_bundle, open_bundle, segment
    >>> brain = open_bundle(find_bundle("segformer3d_brain"))
    >>> result = segment(brain, "head.nii.gz")  # doctest: +SKIP
    """
    opened = bundle if isinstance(bundle, OpenBundle) else open_bundle(bundle, **overrides)
    seconds: dict[str, float] = {}
    found = study if isinstance(study, Study) else only_study(study)
    gate: Gate | None = opened.part("gate", None)
    with _timed(seconds, "read"):
        loaded = read(found, gate)
    with _timed(seconds, "preprocess"):
        image = prepare(loaded, opened.part("preprocessing"))
    inferer: WindowEngine = opened.part("inferer")
    with _timed(seconds, "infer"):
        prediction = infer(image, opened.part("network"), inferer, opened.part("device"))
        details = inferer.report.as_dict()
    with _timed(seconds, "postprocess"):
        prediction = finish(loaded, image, prediction, opened.part("postprocessing", unchanged))
    voxels, grid = prediction.squeeze(0).cpu().numpy(), grid_of(prediction, loaded)
    return Result(loaded, voxels, grid, opened.bundle, seconds, details)


def check_for(bundle: Bundle, inputs: Sequence[str]) -> Checked:
    """What the headers of studies say, and whether the bundle would take them; their voxels are read.

    Parameters
    ----------
    bundle
        The bundle that the studies are meant for.
    inputs
        Files, folders, globs or manifests.

    Raises
    ------
    MedvitError
        If the input does not exist, or is a manifest that cannot be understood.
    """
    opened = open_bundle(bundle, input=list(inputs))
    gate: Gate | None = opened.part("gate", None)
    return check_found(opened.part("datalist"), lambda study: read(study, gate))


def read(study: Study, gate: Gate | None) -> LoadedStudy:
    """`study` with its image, held against the gate before and after its voxels are read."""
    if gate is not None:
        study = gate(study)
    loaded = study if isinstance(study, LoadedStudy) else read_study(study)
    return loaded if gate is None else gate(loaded)


def prepare(study: LoadedStudy, preprocessing: Transform) -> MetaTensor:
    """The image (C, X, Y, Z) that the network takes."""
    return preprocessing({"image": study})["image"]


def infer(image: MetaTensor, network: nn.Module, inferer: WindowEngine, device: torch.device) -> MetaTensor:
    """The inferer's result (1, X, Y, Z), on the grid of the study."""
    return inferer(image[None].to(device), network)[0]


def finish(
    study: LoadedStudy, image: MetaTensor, prediction: MetaTensor, postprocessing: Transform
) -> MetaTensor:
    """The result (1, X, Y, Z) after the bundle's post-processing."""
    return postprocessing({"pred": prediction, "image": image, "source": study.image})["pred"]


def grid_of(prediction: MetaTensor, study: LoadedStudy) -> Grid:
    """Grid of a result (1, X, Y, Z): that of its study, or the finer one that its affine states."""
    x, y, z = (int(n) for n in prediction.shape[1:])
    if (x, y, z) == study.grid.shape:
        return study.grid
    return Grid((x, y, z), np.asarray(prediction.affine, np.float64))


def unchanged(data: dict[str, Any]) -> dict[str, Any]:
    """The post-processing of a bundle that states none."""
    return data


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)
