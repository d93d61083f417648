"""Batch inference: every image of the store one after another; a broken one is noted and skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.utils.others.generic import remove_file

from medvit.errors import MedvitError

_log = logging.getLogger(__name__)


class BatchInfer(BatchInferTask):
    """Infers all, labelled or unlabelled images and saves the results as labels."""

    def __call__(
        self, request: dict[str, Any], datastore: Datastore, infer: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        """The result of inference for each image, or ``{"error": ...}``.

        Parameters
        ----------
        request
            ``images`` (all, labeled, unlabeled or a list), ``label_tag``, ``max_batch_size`` (the number of
            images; 0 for all) and the options of the bundle.
        """
        images = sorted(self.get_images(request, datastore))
        images = images[: request.get("max_batch_size") or None]
        tag = request.get("label_tag") or "original"
        results: dict[str, Any] = {}
        for done, image in enumerate(images, start=1):
            try:
                result = infer({**request, "image": image, "save_label": True, "label_tag": tag}, datastore)
                remove_file(result.pop("file", None))
                results[image] = result
            except MedvitError as error:
                results[image] = {"error": str(error)}
            _log.info("%d of %d: %s: %s", done, len(images), image, results[image].get("error", "done"))
        return results
