"""Training at the server: a new version of a bundle from the annotator's labels."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.tasks.train import TrainTask

from medvit.datasets.splits import drawn_patients, patient_of
from medvit.errors import MedvitError
from medvit.label.errors import RequestError, first_of
from medvit.label.finetuning import Annotated, FinetuningSchedule, finetune
from medvit.label.serving import ServedBundle
from medvit.label.versions import Training
from medvit.label.volumes import read_label_map
from medvit.runs import StudyEvaluator
from medvit.studies import Grid, LoadedStudy
from medvit.transforms.resample import resample_labels


class FineTune(TrainTask):
    """Trains a bundle that segments on the final labels of a store.

    Parameters
    ----------
    served
        The bundle.
    """

    def __init__(self, served: ServedBundle) -> None:
        super().__init__(f"Go on training {served.name} on final labels; makes a new version")
        self.served = served

    def config(self) -> dict[str, Any]:
        """The options that a viewer offers."""
        return {"max_epochs": 20, "patches": 4, "learning_rate": 1e-4, "val_split": 0.2}

    def stats(self) -> dict[str, Any]:
        """Training data of the newest version, and its quality under the names that 3D Slicer reads."""
        newest = next(iter(self.served.versions.of(self.served.name)), None)
        if newest is None:
            return {}
        trained = newest.facts["trained"]
        return {
            "model": self.served.name, "version": newest.version, "from": trained["from"],
            "in_use": newest.version == self.served.bundle().version,
            "studies": trained["studies"], "held_out": trained["held_out"],
            "best_metric": trained["dice"] or 0, "epoch": trained["epochs"],
            "total_epochs": trained["epochs"], "total_time": trained["date"],
        }  # fmt: skip

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Train, and keep the new version.

        Raises
        ------
        MedvitError
            If there is no final label, or one has a name that the bundle does not know.
        """
        settings: dict[str, Any] = {key: _number(request, key, value) for key, value in self.config().items()}
        pairs = datastore.annotated()
        if not pairs:
            raise RequestError("there is no study with a final label to train on; submit one first")
        patients = [patient_of(pair["id"]) for pair in pairs]
        apart = drawn_patients(patients, settings.pop("val_split"), seed=0)
        base = self.served.bundle(first_of(request.get("version")))
        evaluator = self.served.new_evaluator(base, {}, first_of(request.get("device")))
        annotated = [self._annotated(pair, evaluator) for pair in pairs]
        schedule = FinetuningSchedule(**settings)
        table = self.served.table
        assert table is not None, "only bundles that segment are trained"
        training = [one for one, patient in zip(annotated, patients, strict=True) if patient not in apart]
        held_out = [one for one, patient in zip(annotated, patients, strict=True) if patient in apart]
        before, best = finetune(evaluator, training, held_out, len(table) + 1, schedule)
        today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        facts = Training(len(training), len(held_out), schedule.max_epochs, before, best, today)
        kept = self.served.versions.keep(base, evaluator.network, facts)
        return {"model": self.served.name, "version": kept.version, "quality": facts.quality}

    def _annotated(self, pair: dict[str, Any], evaluator: StudyEvaluator) -> Annotated:
        study = self.served.study(Path(pair["image"]))
        item = evaluator.data_loader.dataset.prepare(study)
        if item.image is None or not isinstance(item.study, LoadedStudy):
            raise RequestError(item.outcome.error)
        truth = self._in_table(read_label_map(pair["label"], item.study.grid), pair)
        shape = tuple(int(n) for n in item.image.shape[1:])
        grid = Grid((shape[0], shape[1], shape[2]), np.asarray(item.image.affine, np.float64))
        label = resample_labels(truth, item.study.grid, grid)
        return Annotated(item.image, torch.from_numpy(label.astype(np.float32))[None], truth)

    def _in_table(self, labels: np.ndarray, pair: dict[str, Any]) -> np.ndarray:
        """Label values as the bundle has them: matched by name where the annotator's client sent names."""
        values = {name.lower(): value for name, value in self.served.labels.items()}
        names: list[str] = pair["names"] or list(values)
        lookup = np.zeros(max(int(labels.max(initial=0)), len(names)) + 1, np.uint16)
        for value in np.unique(labels[labels > 0]).tolist():
            name = names[value - 1].lower() if value <= len(names) else f"label {value}"
            if name not in values:
                raise RequestError(
                    f"{pair['label']}: {self.served.name} does not segment {name!r}; rename the segment"
                )
            lookup[value] = values[name]
        return lookup[labels]


def _number(request: dict[str, Any], key: str, default: float) -> float:
    try:
        number = type(default)(request.get(key, default))
    except (TypeError, ValueError):
        number = -1
    if number < 0 or (key == "val_split" and number >= 1) or (number == 0 and key != "val_split"):
        raise MedvitError(f"training takes {key} such as {default}, not {request.get(key)!r}")
    return number
