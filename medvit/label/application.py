"""`MedvitLabelApp`: all installed bundles as one MONAI Label app."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First

from medvit import __version__
from medvit.bundles import find_bundle, installed_bundles
from medvit.errors import MedvitError
from medvit.label.batch import BatchInfer
from medvit.label.dicom_seg import write_segmentation
from medvit.label.errors import RequestError, not_found
from medvit.label.infer import BundleInfer
from medvit.label.scoring import Anyone, MostUncertain, Uncertainty
from medvit.label.serving import ServedBundle
from medvit.label.sessions import CappedSessions
from medvit.label.stores import FileStore, PacsStore
from medvit.label.training import FineTune
from medvit.label.versions import Versions
from medvit.runs.options import execution_settings
from medvit.studies import sha256_of
from medvit.studies.access import Access
from medvit.studies.dicom_out import Algorithm

_log = logging.getLogger(__name__)
# Requests that may wait for their inference before the next one is refused.
_WAITING = 8


class MedvitLabelApp(MONAILabelApp):
    """The MONAI Label app that serves medvit's bundles.

    Parameters
    ----------
    app_dir
        Folder of the MONAI Label app; nothing is written to it.
    studies
        A folder, or the address of a DICOMweb service.
    conf
        ``models`` (names, separated by commas; where empty, all installed ones that are not quantised),
        ``trust`` (whether they may be folders), ``amp``, ``tf32`` and ``backend`` (precision of the networks,
        and what runs them), ``workspace`` (folder for trained versions and for what an archive sent).

    Raises
    ------
    MedvitError
        If a bundle cannot be served.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.workspace = Path(conf["workspace"])
        names = [name for name in conf.get("models", "").split(",") if name]
        trust = conf.get("trust") == "true"
        bundles = [find_bundle(name, trust=trust) for name in names] or [
            bundle for bundle in installed_bundles() if not bundle.is_quantised
        ]
        if not bundles:
            raise MedvitError("there is no bundle to serve; install one, or give --models")
        versions = Versions(self.workspace / "versions")
        execution = execution_settings(
            conf.get("amp", "off"), conf.get("tf32") == "true", conf.get("backend", "torch")
        )
        self.served = {bundle.name: ServedBundle(bundle, versions, execution) for bundle in bundles}
        self._one_at_a_time = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_WAITING)
        description = "Transformers that segment and restore medical images"
        super().__init__(app_dir, studies, conf, "medvit", description, __version__)

    @property
    def segmenters(self) -> dict[str, ServedBundle]:
        """The bundles that give label maps."""
        return {name: served for name, served in self.served.items() if served.table is not None}

    def check_weights(self) -> None:
        """Load every bundle once, so that weights that do not fit stop the server before it answers."""
        for served in self.served.values():
            served.evaluator(served.bundle(), {})

    def init_datastore(self) -> FileStore:
        """The image store: a folder or an archive."""
        if not self.studies.startswith(("http://", "https://")):
            return FileStore(Path(self.studies))
        modalities = {m for s in self.served.values() for m in s.pristine.facts.get("modality", ())}
        tables = {name: s.table for name, s in self.segmenters.items() if s.table is not None}
        self.workspace.mkdir(parents=True, exist_ok=True)
        query = json.loads(self.conf.get("query") or "{}")
        listed = tuple(sorted(modalities or {"CT", "MR"}))
        return PacsStore(
            self.studies.rstrip("/"), self.workspace, listed, tables, Access.from_environment(), query
        )

    def _load_sessions(self, load: bool = False) -> CappedSessions | None:
        if not load:
            return None
        return CappedSessions(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY)

    def init_infers(self) -> dict[str, InferTask]:
        """One inference task for each bundle."""
        return {name: BundleInfer(served) for name, served in self.served.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        """One training task for each bundle that segments."""
        return {name: FineTune(served) for name, served in self.segmenters.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        """The methods that choose the next image to annotate."""
        # Viewers offer the first of them, which must answer at once.
        return {"first": First(), "uncertainty": MostUncertain(self._uncertainty()), "random": Anyone()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """The methods that score images."""
        return {"uncertainty": self._uncertainty()}

    def _uncertainty(self) -> Uncertainty:
        return Uncertainty(self.segmenters, lambda store, image: store.study_path(image), self._turn)

    def init_batch_infer(self) -> Callable:
        """The task that infers many images at once."""
        return BatchInfer()

    def info(self) -> dict[str, Any]:
        """The answer to ``/info/``; viewers show the first training statistics, so the latest stand first."""
        stated = super().info()
        trained = {name: stats for name, stats in stated["train_stats"].items() if stats}
        latest = sorted(trained, key=lambda name: trained[name]["total_time"], reverse=True)
        return {**stated, "train_stats": {name: trained[name] for name in latest}}

    def task(self, model: str) -> BundleInfer:
        """The inference task of a model.

        Raises
        ------
        RequestError
            If there is none.
        """
        if model not in self._infers:
            raise not_found("model", model, list(self._infers))
        return self._infers[model]

    def infer(self, request: dict[str, Any], datastore: FileStore | None = None) -> dict[str, Any]:
        """Infer one image.

        Parameters
        ----------
        request
            ``model``; ``image``, an identifier of the store, or the `Path` of what a client has sent;
            options.

        Returns
        -------
        dict
            ``file`` with the result, ``params`` with facts, ``label`` and ``tag`` where it was saved.
        """
        store = datastore or self._datastore
        task, image = self.task(request["model"]), request["image"]
        with self._turn():
            file, facts = task({**request, "image": self._path(image, store)})
        seconds, light = facts["latencies"]["total"], facts["verdict"]["light"]
        _log.info("%s on %s: %s after %.1f s", task.served.name, Path(image).name, light, seconds)
        label, tag = file, request.get("label_tag") or "original"
        if request.get("save_label") and isinstance(image, str):
            label = store.save_label(image, file, tag, {"model": task.served.name, "params": facts})
        return {"label": label, "tag": tag, "file": file, "params": facts}

    def infer_dicom_seg(self, request: dict[str, Any], path: Path) -> Path:
        """As `infer`, but the result is a DICOM SEG, at `path`.

        Raises
        ------
        RequestError
            If the bundle restores images.
        """
        task = self.task(request["model"])
        if task.served.table is None:
            raise RequestError(f"{task.served.name} restores images; only label maps become DICOM SEG")
        with self._turn():
            found = task.predict({**request, "image": self._path(request["image"], self._datastore)})
        algorithm = Algorithm(task.served.name, found.bundle.version, sha256_of(found.bundle.weights))
        return write_segmentation(path, found.voxels, found.study, task.served.table, algorithm)

    def _path(self, image: str | Path, store: FileStore) -> str:
        return str(image if isinstance(image, Path) else store.study_path(image))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Run one inference at a time to save memory; a request that finds the queue full is refused."""
        if not self._waiting.acquire(blocking=False):
            raise RequestError("the server is busy with other inferences; try again later", 429)
        try:
            with self._one_at_a_time:
                yield
        finally:
            self._waiting.release()
