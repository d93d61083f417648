"""The specification of a trained bundle: its inference, and the training itself as a workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medvit.bundles.convert.configuration import inference_section as converted_section
from medvit.bundles.convert.deduction import Deduction
from medvit.bundles.convert.settings import Conversion, ConversionSettings
from medvit.bundles.templates import resolve
from medvit.training.plan import Plan

WORKFLOWS = ("inference", "train", "multi_gpu_train")
_SLICES = 8  # that a two-dimensional network sees at once
_ROTATION = 0.26  # radians, 15 degrees


def specification(plan: Plan, metadata: dict[str, Any]) -> dict[str, Any]:
    """Specification from which `medvit.bundles.write` writes the configurations of the trained bundle.

    Parameters
    ----------
    plan
        Plan of the training.
    metadata
        Result of `medvit.training.documents.metadata_section`.
    """
    return {
        "template": "segmentation",
        "inference": _inference(plan),
        "train": _train(plan),
        "metadata": metadata,
    }


def _inference(plan: Plan) -> dict[str, Any]:
    settings = ConversionSettings(
        intensity=plan.intensity,
        orientation="RAS",
        channels=plan.channels if len(plan.channels) > 1 else (),
    )
    found = Deduction(plan.architecture, len(plan.window), {"in_channels": len(plan.channels)})
    entries = converted_section(
        Conversion(found, settings, Path(), plan.labels, plan.spacing, tuple(plan.patch_size))
    )
    entries["network_def"] = plan.network
    if plan.slice_axis is not None:
        entries |= {
            "roi_size": list(plan.window),
            "inferer#roi_size": "@roi_size",
            "inferer#slices": _SLICES,
            "inferer#slice_axis": plan.slice_axis,
        }
    return entries


def _train(plan: Plan) -> dict[str, Any]:
    """The training continues from the bundle's weights, on the cases of a manifest."""
    open_entries = resolve({"template": "segmentation"})["train"]
    timed = plan.settings["minutes"] is not None
    apart = {"device"} if timed else {"device", "steps"}  # without a time, steps are the epochs'
    entries = {key: plan.settings[key] for key in open_entries if key in plan.settings and key not in apart}
    # The choices may leave the patch size open; the plan does not.
    entries |= {
        "patch_size": list(plan.patch_size),
        "slice_axis": plan.slice_axis,
        "rotations": _rotations(plan),
        "label_names": [structure["name"] for structure in plan.labels["structures"]],
    }
    # In sagittal slices there is no left and right.
    if plan.mirror and plan.slice_axis != 0:
        mirror = {
            "_target_": "medvit.training.MirrorLeftRightd",
            "keys": ["image", "label"],
            "pairs": [list(pair) for pair in plan.pairs],
        }
        entries["+train#preprocessing#transforms"] = [mirror]
    return entries


def _rotations(plan: Plan) -> float | list[float]:
    """Angles about each axis; slices that are far apart are turned only in their plane."""
    if plan.slice_axis is not None:
        return _ROTATION
    coarse = max(plan.spacing) > 3 * min(plan.spacing)
    thick = plan.spacing.index(max(plan.spacing))
    return [0.0 if coarse and axis != thick else _ROTATION for axis in range(3)]
