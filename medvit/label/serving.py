"""`ServedBundle`: a bundle that answers requests the way ``python -m monai.bundle run`` does."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medvit.bundles import Bundle, OpenBundle, Result, open_bundle, segment
from medvit.bundles.segmentation import prepare, read
from medvit.errors import MedvitError, StudyError
from medvit.inference import StreamingWindowInferer
from medvit.inference.engine import WindowEngine
from medvit.label.errors import RequestError, not_found
from medvit.label.tables import label_table
from medvit.label.versions import Versions, is_better
from medvit.runs import StudyEvaluator
from medvit.studies import Found, Study, sha256_of
from medvit.studies.discover import the_only

# Open bundles kept in memory: one with the usual options, one with those that someone is trying out.
_KEPT = 2


class ServedBundle:
    """A bundle and its trained versions.

    Parameters
    ----------
    pristine
        The bundle as it was installed.
    versions
        Where trained versions are.
    execution
        Precision of the network, from `medvit.runs.options.execution_settings`.

    Raises
    ------
    MedvitError
        If its labels are not 1 to N, or its workflow is not one of medvit's.
    """

    def __init__(
        self, pristine: Bundle, versions: Versions, execution: Mapping[str, Any] | None = None
    ) -> None:
        self.pristine = pristine
        self.execution = dict(execution or {})
        self.name = pristine.name
        self.versions = versions
        self.table = label_table(pristine)
        opened = self._open(pristine, {})
        missing = [key for key in ("datalist", "dataset", "evaluator", "inferer") if key not in opened]
        if missing:
            raise MedvitError(
                f"{pristine.config('inference')} has no {', '.join(missing)}, by which medvit runs bundles; "
                "serve it with MONAI Label's app monaibundle"
            )
        shown = "displayable_configs"
        self.options: dict[str, Any] = dict(opened.part(shown, {}))
        self._targets = {k: _target(k, opened.stated(shown)[k]) for k in self.options}
        self._kept: OrderedDict[tuple, OpenBundle] = OrderedDict()

    @property
    def labels(self) -> dict[str, int]:
        """Value of each label by name; empty for a restorer."""
        return {s.name: s.value for s in self.table or ()}

    def bundles(self) -> dict[str, Bundle]:
        """All versions by number: the default one first, then the others from the newest on.

        The default is the newest that was measured on held-out studies and that training did not make worse.
        """
        every = [*self.versions.of(self.name), self.pristine]
        default = next(b for b in every if b is self.pristine or is_better(b))
        return {b.version: b for b in [default, *every]}

    def bundle(self, version: str = "") -> Bundle:
        """The bundle of a version, or the one that is used by default."""
        bundles = self.bundles()
        version = version or next(iter(bundles))
        if version not in bundles:
            raise not_found(f"version of {self.name}", version, list(bundles))
        return bundles[version]

    def opened(self, bundle: Bundle, options: Mapping[str, Any], device: str = "") -> OpenBundle:
        """A version, open; shared between requests, so that its network must not be changed.

        Raises
        ------
        MedvitError
            If an option is not one of the bundle's, or has a value that its inferer does not take.
        """
        overrides = self._overrides(options, device)
        key = (bundle.version, bundle.weights.stat().st_mtime_ns, *sorted(overrides.items()))
        if key not in self._kept:
            made = self._open(bundle, overrides)
            try:
                inferer: WindowEngine = made.part("inferer")
                inferer.plan((1, 1, 1))
            except ValueError as error:
                raise RequestError(str(error)) from error
            self._kept[key] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def evaluator(self, bundle: Bundle, options: Mapping[str, Any], device: str = "") -> StudyEvaluator:
        """The evaluator of an open version, its network loaded strictly.

        Raises
        ------
        WeightsError
            If the weights do not fit.
        """
        return self.opened(bundle, options, device).part("evaluator")

    def new_evaluator(self, bundle: Bundle, options: Mapping[str, Any], device: str = "") -> StudyEvaluator:
        """A new evaluator that is not shared, for training."""
        return self._open(bundle, self._overrides(options, device)).part("evaluator")

    def study(self, path: Path) -> Study:
        """The study at `path`, found as the bundle finds studies: with its channels."""
        found: Found = self._open(self.pristine, {"input": [str(path)]}).part("datalist")
        return the_only(found, path)

    def predict(
        self, path: Path, options: Mapping[str, Any] | None = None, device: str = "", version: str = ""
    ) -> Result:
        """The label map or restored image of the study at `path`.

        Raises
        ------
        MedvitError
            If the study cannot be read or inferred, or an option is not one of the bundle's.
        """
        opened, study = self.opened(self.bundle(version), options or {}, device), self.study(path)
        try:
            return segment(opened, study)
        except StudyError as error:
            raise RequestError(str(error)) from error

    def uncertainty(self, path: Path, device: str = "") -> float:
        """Mean entropy of the softmax over the study at `path`: 0 is certain, ln(classes) is a guess.

        Raises
        ------
        MedvitError
            If the study cannot be read, or the bundle has no entropy to give.
        """
        bundle = self.bundle()
        opened = self.opened(bundle, {}, device)
        if self.table is None or not isinstance(opened.part("inferer"), StreamingWindowInferer):
            raise RequestError(f"{self.name} gives no class probabilities, so it has no uncertainty")
        inferer = self._open(bundle, {"inferer#maps": ["entropy"]}).part("inferer")
        study = read(self.study(path), opened.part("gate", None))
        there: torch.device = opened.part("device")
        image = prepare(study, opened.part("preprocessing"), there).to(there)
        # The inferer's map is a share of the largest entropy that there is.
        share = float(inferer.infer(image, opened.part("network")).maps["entropy"].mean())
        return share * math.log(len(self.table) + 1)

    def provenance(self, bundle: Bundle) -> dict[str, str]:
        """Provenance of a result."""
        return {"bundle": self.name, "version": bundle.version, "weights_sha256": sha256_of(bundle.weights)}

    def _open(self, bundle: Bundle, overrides: Mapping[str, Any]) -> OpenBundle:
        # The request decides what is written, so the bundle's own writer is removed.
        return open_bundle(bundle, **{"input": [], "evaluator#writer": None, **self.execution, **overrides})

    def _overrides(self, options: Mapping[str, Any], device: str) -> dict[str, Any]:
        overrides: dict[str, Any] = {}
        for name, value in options.items():
            if name not in self.options:
                raise not_found(f"option of {self.name}", name, list(self.options))
            overrides[self._targets[name]] = _as_type_of(self.options[name], name, value)
        if device:
            overrides["device"] = f"$torch.device({_checked_device(device)!r})"
        return overrides


def _target(name: str, value: Any) -> str:
    """The identifier that an option stands for: what it refers to, or its own entry."""
    refers = isinstance(value, str) and re.fullmatch(r"@[\w#]+", value)
    return value[1:] if refers else f"displayable_configs#{name}"


def _as_type_of(default: Any, name: str, value: Any) -> Any:
    """`value` as the type of the option's default; never an expression, which a configuration would run."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        if isinstance(default, int | float):
            number = type(default)(value)
            if math.isfinite(number):
                return number
        if isinstance(default, str) and isinstance(value, str) and value[:1] not in ("$", "@", "%"):
            return value
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise RequestError(f"option {name!r} takes a value such as {default!r}, not {value!r}")


def _checked_device(device: str) -> str:
    """An available device; clients ask for CUDA by default, so without a GPU the CPU is used."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise RequestError(f"there is no device {device!r}; give cpu, cuda or cuda:N")
    if device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise RequestError(
            f"there is no device {device!r}; this machine has {torch.cuda.device_count()} GPUs"
        )
    return device
