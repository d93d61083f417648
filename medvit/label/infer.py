"""Inference at the server: a request to a file with the result, and what the viewer needs to show it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from medvit.bundles import Result
from medvit.label.errors import RequestError, first_of
from medvit.label.serving import ServedBundle
from medvit.label.verdict import verdict_of
from medvit.label.volumes import EXTENSIONS, write_volume

#: Entries of requests by clients of MONAI Label that do not affect the result.
_PROTOCOL = {
    "model", "image", "description", "client_id", "session", "save_label", "label_tag", "label_info",
    "images", "logging", "result_compress", "result_write_to_file", "restore_label_idx", "label", "timeout",
    "multi_gpu", "gpus", "max_workers", "max_batch_size",
}  # fmt: skip
_OURS = {"device", "version", "result_extension", "result_dtype"}


class BundleInfer(InferTask):
    """The inference task of one bundle.

    Parameters
    ----------
    served
        The bundle.
    """

    def __init__(self, served: ServedBundle) -> None:
        metadata = served.pristine.metadata
        kind = InferType.OTHERS if served.table is None else InferType.SEGMENTATION
        super().__init__(kind, served.labels, 3, metadata.get("description", metadata.get("task", "")))
        self.served = served

    def is_valid(self) -> bool:
        """A bundle that could not be served was refused at start."""
        return True

    def config(self) -> dict[str, Any]:
        """The options that a viewer offers: the bundle's own, and its versions, newest first."""
        return {**self.served.options, "version": list(self.served.bundles())}

    def info(self) -> dict[str, Any]:
        """The task's entry in the answer to ``/info/``."""
        return {**super().info(), "version": self.served.bundle().version}

    def get_path(self, validate: bool = True) -> str:
        """Path of the weights in use."""
        return str(self.served.bundle().weights)

    def predict(self, request: dict[str, Any]) -> Result:
        """The result of a request, in memory.

        Raises
        ------
        MedvitError
            If the request or its study is at fault.
        """
        options = {k: v for k, v in request.items() if k not in _PROTOCOL | _OURS}
        return self.served.predict(
            Path(request["image"]), options, first_of(request.get("device")), first_of(request.get("version"))
        )

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """A file with the result, and facts about it.

        Parameters
        ----------
        request
            ``image`` is a path; ``result_extension`` and ``result_dtype`` set the format of the result.
        """
        extension = self._extension(request)
        self._check_dtype(request.get("result_dtype"))
        prediction = self.predict(request)
        is_label_map = self.served.table is not None
        with tempfile.NamedTemporaryFile(suffix=extension, delete=False) as file:
            path = Path(file.name)
        try:
            write_volume(path, prediction.voxels, prediction.study, is_label_map=is_label_map)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return str(path), self.facts(prediction)

    def facts(self, prediction: Result) -> dict[str, Any]:
        """Label names, their volumes, the verdict and the provenance, as values for JSON."""
        facts = {
            "label_names": self.served.labels,
            "latencies": {**prediction.seconds, "total": round(sum(prediction.seconds.values()), 3)},
            "provenance": self.served.provenance(prediction.bundle),
            "inference": prediction.details,
            "notes": list(prediction.study.notes),
            "verdict": asdict(verdict_of(prediction, self.served.table)),
            "centroids": {},
        }
        if prediction.table is not None:
            facts["volumes_ml"] = {name: round(ml, 4) for name, ml in prediction.volumes_ml.items()}
        return facts

    def _extension(self, request: dict[str, Any]) -> str:
        name = Path(request["image"]).name.lower()
        own = next((e for e in EXTENSIONS if name.endswith(e)), ".nii.gz")
        extension = request.get("result_extension") or own
        if extension not in (*EXTENSIONS, ".seg.nrrd"):
            raise RequestError(f"results are written as {', '.join(EXTENSIONS)}, not as {extension!r}")
        return extension

    def _check_dtype(self, dtype: str | None) -> None:
        if self.served.table is None and dtype not in (None, "", "float32"):
            raise RequestError(
                f"{self.served.name} restores images, which {dtype} would round; ask for result_dtype float32"
            )
