"""From a study to its result in memory: the steps of a bundle, one by one or as a whole."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.bundles.find import Bundle
from medvit.bundles.workflow import OpenBundle, open_bundle
from medvit.errors import StudyError
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
    """The result of a bundle for one study.

    Parameters
    ----------
    study
        The study, with the notes of the reader and of the gate.
    voxels
        (X, Y, Z) label map or restored image.
    grid
        Grid of `voxels`: that of the study, unless the bundle refines it.
    bundle
        The bundle, whose label table names the values.
    seconds
        Wall time of each stage.
    details
        Report of the inferer.
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
        """Volume of each structure in millilitres; empty for a restored image.

        Structures that stand for others, such as those of known sides where no side is known, are left out.
        """
        if self.table is None:
            return {}
        counts = np.bincount(self.voxels.ravel(), minlength=len(self.table) + 1)
        ml = self.grid.voxel_volume / 1000
        return {s.name: float(counts[s.value] * ml) for s in self.table.shown(np.flatnonzero(counts))}


def segment(bundle: Bundle | OpenBundle, study: Study | str | Path, **overrides: Any) -> Result:
    """Read a study, check it against the bundle's scope, infer and post-process; nothing is written.

    Parameters
    ----------
    bundle
        A bundle, or an open one, whose network is loaded once for many studies.
    study
        A study, or a path that holds exactly one.
    overrides
        Values of the configuration, by identifier, for a bundle that is not open yet.

    Raises
    ------
    StudyError
        If the study cannot be read, or lies outside the bundle's scope.
    MedvitError
        If the bundle cannot be opened.

    Examples
    --------
    >>> from medvit.bundles import find_bundle, open_bundle, segment
    >>> brain = open_bundle(find_bundle("segformer3d_brain"))
    >>> result = segment(brain, "head.nii.gz")  # doctest: +SKIP
    """
    opened = bundle if isinstance(bundle, OpenBundle) else open_bundle(bundle, **overrides)
    steps = _Steps.of(opened)
    return steps.finished(steps.inferred(steps.prepared(study)))


def segment_each(
    bundle: OpenBundle,
    studies: Iterable[Study | str | Path | Exception],
    turn: AbstractContextManager[Any] | None = None,
) -> Iterator[Result | Exception]:
    """Segment studies one after another: while one is inferred, the next is read and the last one finished.

    At most three studies are in memory.

    Parameters
    ----------
    bundle
        An open bundle.
    studies
        Studies, or paths that hold exactly one each; taken as they are needed. An exception in place of a
        study comes out in that place.
    turn
        Entered for each inference, such as a lock.

    Yields
    ------
    Result or Exception
        For each study, in order, the result or the error that prevented it.
    """
    steps = _Steps.of(bundle)
    with ThreadPoolExecutor(2, thread_name_prefix="study") as threads:
        ahead: deque[Future[_Prepared]] = deque()
        behind: deque[Future[Result]] = deque()
        try:
            for study in itertools.chain(studies, [None]):
                if isinstance(study, Exception):
                    ahead.append(_failed(study))
                elif study is not None:
                    ahead.append(threads.submit(steps.prepared, study))
                if ahead and (study is None or len(ahead) > 1):
                    behind.append(_then(threads, steps, ahead.popleft(), turn or nullcontext()))
                if behind and (study is None or len(behind) > 1):
                    yield _result_of(behind.popleft())
            while behind:
                yield _result_of(behind.popleft())
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _then(
    threads: ThreadPoolExecutor, steps: _Steps, prepared: Future[_Prepared], turn: AbstractContextManager[Any]
) -> Future[Result]:
    """Infer a study here, and let a thread finish it."""
    try:
        item = prepared.result()
        with turn:
            item = steps.inferred(item)
    except Exception as error:
        return _failed(error)
    return threads.submit(steps.finished, item)


def _failed(error: Exception) -> Future[Any]:
    failed: Future[Any] = Future()
    failed.set_exception(error)
    return failed


def _result_of(future: Future[Result]) -> Result | Exception:
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, Exception):
        raise error
    return error


@dataclass(frozen=True)
class _Prepared:
    """A study on its way: read and prepared, then inferred."""

    study: LoadedStudy
    image: MetaTensor
    seconds: Mapping[str, float]
    prediction: MetaTensor | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Steps:
    """The components of an open bundle, for threads."""

    opened: OpenBundle
    gate: Gate | None
    preprocessing: Transform
    inferer: WindowEngine
    device: torch.device | str
    postprocessing: Transform

    @classmethod
    def of(cls, opened: OpenBundle) -> _Steps:
        return cls(
            opened,
            opened.part("gate", None),
            opened.part("preprocessing"),
            opened.part("inferer"),
            opened.part("device"),
            opened.part("postprocessing", unchanged),
        )

    def prepared(self, study: Study | str | Path) -> _Prepared:
        seconds: dict[str, float] = {}
        stated = self.opened.part("channels", 1)
        found = study if isinstance(study, Study) else only_study(study, channels=stated)
        if len(found.series) != (count := stated if isinstance(stated, int) else len(stated)):
            what = f"holds {len(found.series)} images where {self.opened.bundle.name} takes {count}"
            raise StudyError("channels-missing", f"study {found.id}: {what}", do="give one image per channel")
        with _timed(seconds, "read"):
            loaded = read(found, self.gate)
        with _timed(seconds, "preprocess"):
            image = prepare(loaded, self.preprocessing, self.device)
        return _Prepared(loaded, image, seconds)

    def inferred(self, item: _Prepared) -> _Prepared:
        seconds = dict(item.seconds)
        # Made here and not earlier, since a study that is refused needs no network.
        network: nn.Module = self.opened.part("network")
        with _timed(seconds, "infer"):
            prediction = infer(item.image, network, self.inferer, self.device)
            details = self.inferer.report.as_dict()
        return replace(item, seconds=seconds, prediction=prediction, details=details)

    def finished(self, item: _Prepared) -> Result:
        assert item.prediction is not None, "a study is inferred before it is finished"
        seconds = dict(item.seconds)
        with _timed(seconds, "postprocess"):
            prediction = finish(item.study, item.image, item.prediction, self.postprocessing)
            voxels, grid = prediction.squeeze(0).cpu().numpy(), grid_of(prediction, item.study)
        return Result(item.study, voxels, grid, self.opened.bundle, seconds, item.details)


def check_for(bundle: Bundle, inputs: Sequence[str]) -> Checked:
    """Check whether a bundle would accept studies, by their headers and by their voxels, which are read.

    Parameters
    ----------
    bundle
        The bundle for which the studies are meant.
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
    """`study` with its image, checked by the gate before and after its voxels are read."""
    if gate is not None:
        study = gate(study)
    loaded = study if isinstance(study, LoadedStudy) else read_study(study)
    return loaded if gate is None else gate(loaded)


def prepare(
    study: LoadedStudy, preprocessing: Transform, device: torch.device | str | None = None
) -> MetaTensor:
    """The image (C, X, Y, Z) that the network takes; on a GPU it is prepared there while the host goes on."""
    if str(device).startswith("cuda"):
        there = study.image.as_tensor().pin_memory().to(device, non_blocking=True)
        study = replace(study, image=type(study.image)(there).copy_meta_from(study.image))
    return preprocessing({"image": study})["image"]


def infer(
    image: MetaTensor, network: nn.Module, inferer: WindowEngine, device: torch.device | str
) -> MetaTensor:
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
    """The post-processing of a bundle that defines none."""
    return data


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)
