"""The workflows of a bundle that is trained: inference, and the training itself as a configuration."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from medvit.bundles.convert.configuration import inference_config as converted_config
from medvit.bundles.convert.deduce import Deduction
from medvit.bundles.convert.settings import Conversion, ConversionSettings
from medvit.studies import safe_name
from medvit.training.plan import Plan

_SLICES = 8  # that a two-dimensional network sees at once
_ROTATION = 0.26  # radians, 15 degrees


def inference_config(plan: Plan, name: str) -> dict[str, Any]:
    """Content of ``configs/inference.json``."""
    dims = len(plan.window)
    settings = ConversionSettings(
        intensity=plan.intensity,
        orientation="RAS",
        channels=plan.channels if len(plan.channels) > 1 else (),
    )
    found = Deduction(plan.architecture, dims, {"in_channels": len(plan.channels)})
    config = converted_config(
        Conversion(found, settings, Path(), plan.labels, plan.spacing, tuple(plan.patch_size))
    )
    config |= {"bundle_root": _root(name), "network_def": plan.network}
    if "$from medvit import bundles" not in config["imports"]:
        config["imports"].insert(0, "$from medvit import bundles")
    config["imports"] = [one for one in config["imports"] if one != "$from pathlib import Path"]
    if plan.slice_axis is not None:
        config["roi_size"] = list(plan.window)
        config["inferer"] |= {"roi_size": "@roi_size", "slices": _SLICES, "slice_axis": plan.slice_axis}
    return config


def train_config(plan: Plan, name: str) -> dict[str, Any]:
    """Content of ``configs/train.json``: goes on from the bundle's weights, on the cases of a manifest."""
    config = json.loads((files("medvit.training") / "train.json").read_text(encoding="utf-8"))
    # What is null there is filled in here; patch_size is the plan's, not what was or was not asked for.
    timed = plan.settings["minutes"] is not None
    apart = {"device"} if timed else {"device", "steps"}  # without a time, steps are the epochs'
    config |= {key: plan.settings[key] for key in config if key in plan.settings and key not in apart}
    config |= {
        "bundle_root": _root(name),
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
        config["train"]["preprocessing"]["transforms"].append(mirror)
    return config


def _root(name: str) -> str:
    # Whatever a folder may be called, it is no part of an expression.
    return f"$bundles.locate({safe_name(name)!r})"


def _rotations(plan: Plan) -> float | list[float]:
    """Angles about each axis; slices that are far apart are turned in their plane alone."""
    if plan.slice_axis is not None:
        return _ROTATION
    coarse = max(plan.spacing) > 3 * min(plan.spacing)
    thick = plan.spacing.index(max(plan.spacing))
    return [0.0 if coarse and axis != thick else _ROTATION for axis in range(3)]
