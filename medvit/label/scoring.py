"""Active learning: how uncertain a bundle is about each image, and which image to annotate next."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from medvit.errors import MedvitError
from medvit.label.errors import RequestError, first_of, not_found
from medvit.label.serving import ServedBundle

_log = logging.getLogger(__name__)
_KEY = "uncertainty"
# Seconds that a person who asks for the next image waits for scores.
_PATIENCE = 30.0


class Uncertainty(ScoringMethod):
    """Mean entropy of a bundle's softmax over each image without a label, in nats.

    Parameters
    ----------
    served
        The bundles that segment, by name.
    path_of
        Where a store has an image to infer on.
    turn
        Entered for each inference, so that only one runs at a time.
    """

    def __init__(
        self,
        served: dict[str, ServedBundle],
        path_of: Callable[[Datastore, str], Any],
        turn: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        super().__init__("Mean entropy over the image: 0 is certain, ln(number of classes) is a guess")
        self.served = served
        self.path_of = path_of
        self.turn = turn

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Scores by image, kept in the store, and the cause where an image has none."""
        return self.score(request, datastore, math.inf)

    def score(self, request: dict[str, Any], datastore: Datastore, seconds: float) -> dict[str, Any]:
        """As a call, but once an image has a score, no other is begun after the time limit."""
        bundle = chosen(self.served, request.get("model"))
        version = bundle.bundle().version
        device = first_of(request.get("device"))
        images = sorted(datastore.get_unlabeled_images())
        known = {image: datastore.get_image_info(image).get(_KEY, {}) for image in images}
        scores = {
            image: of_all[bundle.name]["value"]
            for image, of_all in known.items()
            if of_all.get(bundle.name, {}).get("version") == version
        }
        failed: dict[str, str] = {}
        end = time.monotonic() + seconds
        for image in images:
            if image in scores or (scores and time.monotonic() > end):
                continue
            try:
                with self.turn():
                    value = bundle.uncertainty(self.path_of(datastore, image), device)
            except MedvitError as error:
                failed[image] = str(error)
                continue
            scores[image] = value
            entry = {bundle.name: {"value": value, "version": version}}
            datastore.update_image_info(image, {_KEY: known[image] | entry})
            _log.info("%s: uncertainty %.4f", image, value)
        return {"model": bundle.name, "version": version, "scores": scores, "failed": failed}


class MostUncertain(Strategy):
    """The image without a label that a bundle is least certain about.

    Parameters
    ----------
    scoring
        Scores the images that have no score yet.
    """

    def __init__(self, scoring: Uncertainty) -> None:
        super().__init__("The image that the bundle is least certain about; scores images as needed")
        self.scoring = scoring

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any] | None:
        """Identifier, score, and how many images were compared; `None` when all images have a label."""
        datastore.refresh()  # scores may have been written by another process
        images = datastore.get_unlabeled_images()
        if not images:
            return None
        found = self.scoring.score(request, datastore, _PATIENCE)
        scores = found["scores"]
        if not scores:
            raise RequestError(next(iter(found["failed"].values())))
        image = max(scores, key=lambda i: scores[i])
        compared = {"scored": len(scores), "unlabeled": len(images)}
        return {"id": image, "weight": scores[image], **compared}


class Anyone(Strategy):
    """Any image without a label; MONAI Label's own strategy fails if it is asked twice within a second."""

    def __init__(self) -> None:
        super().__init__("Any image without a label")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Identifier; `None` when all images have a label."""
        images = datastore.get_unlabeled_images()
        return {"id": random.choice(images)} if images else None


def chosen(served: dict[str, ServedBundle], model: str | None) -> ServedBundle:
    """The bundle that a request names, or the first.

    Raises
    ------
    RequestError
        If there is no bundle that segments.
    """
    if not served:
        raise RequestError("no bundle that segments is served")
    if model and model not in served:
        raise not_found("model", model, list(served))
    return served[model or next(iter(served))]
