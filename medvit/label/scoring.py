"""Active learning: how uncertain a bundle is about each image, and which image to annotate next."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from medvit.errors import MedvitError
from medvit.label.errors import RequestError, not_found
from medvit.label.serving import ServedBundle

_log = logging.getLogger(__name__)
_KEY = "uncertainty"


class Uncertainty(ScoringMethod):
    """Mean entropy of a bundle's softmax over each image without a label, in nats.

    Parameters
    ----------
    served
        The bundles that segment, by name.
    path_of
        Where a store has an image to infer on.
    """

    def __init__(self, served: dict[str, ServedBundle], path_of: Callable[[Datastore, str], Any]) -> None:
        super().__init__("Mean entropy over the image: 0 is certain, ln(number of classes) is a guess")
        self.served = served
        self.path_of = path_of

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Scores by image, kept in the store, and the cause where an image has none."""
        bundle = chosen(self.served, request.get("model"))
        version = bundle.bundle().version
        scores: dict[str, float] = {}
        failed: dict[str, str] = {}
        for image in sorted(datastore.get_unlabeled_images()):
            known = datastore.get_image_info(image).get(_KEY, {})
            try:
                if known.get(bundle.name, {}).get("version") != version:
                    value = bundle.uncertainty(
                        self.path_of(datastore, image), str(request.get("device") or "")
                    )
                    known = known | {bundle.name: {"value": value, "version": version}}
                    datastore.update_image_info(image, {_KEY: known})
                scores[image] = known[bundle.name]["value"]
                _log.info("%s: %.4f", image, scores[image])
            except MedvitError as error:
                failed[image] = str(error)
        return {"model": bundle.name, "version": version, "scores": scores, "failed": failed}


class MostUncertain(Strategy):
    """The image without a label that a bundle is least certain about.

    Parameters
    ----------
    served
        The bundles that segment, by name.
    """

    def __init__(self, served: dict[str, ServedBundle]) -> None:
        super().__init__("The image that the bundle is least certain about; run scoring first")
        self.served = served

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any] | None:
        """Identifier and score; `None` when all images have a label."""
        bundle = chosen(self.served, request.get("model"))
        datastore.refresh()  # scores may have been written by another process
        images = sorted(datastore.get_unlabeled_images())
        scores = {i: datastore.get_image_info(i).get(_KEY, {}).get(bundle.name) for i in images}
        known = {image: score["value"] for image, score in scores.items() if score}
        if not images:
            return None
        if not known:
            raise RequestError("no image has a score yet; run the scoring method 'uncertainty' first", 409)
        image = max(known, key=lambda i: known[i])
        return {"id": image, "weight": known[image]}


class Anyone(Strategy):
    """Any image without a label. MONAI Label's own fails where it is asked twice in a second."""

    def __init__(self) -> None:
        super().__init__("Any image without a label")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Identifier; `None` when all images have a label."""
        images = datastore.get_unlabeled_images()
        return {"id": random.choice(images)} if images else None


def chosen(served: dict[str, ServedBundle], model: str | None) -> ServedBundle:
    """The bundle that a request names, or the first."""
    if not served:
        raise RequestError("no bundle that segments is served")
    if model and model not in served:
        raise not_found("model", model, list(served))
    return served[model or next(iter(served))]
