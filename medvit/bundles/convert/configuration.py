"""The inference workflow of a converted bundle, with the identifiers that all our bundles have."""

from __future__ import annotations

import json
from typing import Any

from medvit.bundles import find_bundle
from medvit.bundles.convert.settings import Conversion, axis_order, intensity_transform
from medvit.studies.labels import parse_label_table

# The bundle of ours whose workflow a converted one takes over, all but network, grid and intensities.
TEMPLATE = "segformer3d_brain"


def inference_config(conversion: Conversion) -> dict[str, Any]:
    """Content of ``configs/inference.json``."""
    config = json.loads(find_bundle(TEMPLATE).config("inference").read_text(encoding="utf-8"))
    resized = conversion.spacing is None
    config["imports"].append("$from pathlib import Path")
    config |= {
        "bundle_root": "$str(Path.cwd())",
        "spacing": conversion.spacing,
        "roi_size": conversion.roi,
        "channels": conversion.settings.channels or conversion.found.arguments["in_channels"],
        "datalist": "$studies.find_studies(@input, channels=@channels)",
        "overlap": 0.0 if resized else 0.5,
        "network_def": {
            "_target_": f"medvit.networks.{conversion.found.target}",
            **conversion.found.arguments,
        },
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(conversion)},
        "inferer": _inferer(conversion),
        "postprocessing": {"_target_": "Compose", "transforms": []},
    }
    return config


def _preprocessing(conversion: Conversion) -> list[dict[str, Any]]:
    resample: dict[str, Any] = {
        "_target_": "medvit.transforms.ResampleImaged",
        "keys": "@image_key",
        "spacing": "@spacing",
    }
    if conversion.spacing is None:
        # A slice as a whole, as the authors train and test; results go back by the affine.
        resample = {
            "_target_": "Resized",
            "keys": "@image_key",
            "spatial_size": [-1, *conversion.roi[1:]],
            "mode": "trilinear",
        }
    return [
        {"_target_": "medvit.transforms.LoadStudyd", "keys": "@image_key"},
        {
            "_target_": "Orientationd",
            "keys": "@image_key",
            "axcodes": conversion.settings.orientation,
            "labels": [["L", "R"], ["P", "A"], ["I", "S"]],
        },
        resample,
        intensity_transform(conversion.settings.intensity),
    ]


def _inferer(conversion: Conversion) -> dict[str, Any]:
    lateral_axis = axis_order(conversion.settings.orientation).index(0)
    inferer: dict[str, Any] = {
        "_target_": "medvit.inference.StreamingWindowInferer",
        "roi_size": "@roi_size",
        "overlap": "@overlap",
        "sw_batch_size": "@sw_batch_size",
        "grid": "source",
        "flips": {
            "_target_": "medvit.inference.Flips",
            "axes": f"$[{lateral_axis}] if @tta else []",
            "lateral_axis": lateral_axis,
            "lateral_pairs": [] if conversion.settings.paint_order else lateral_pairs(conversion.labels),
        },
    }
    if conversion.found.spatial_dims == 2:
        inferer |= {
            "_target_": "medvit.inference.SliceInferer",
            "roi_size": "$@roi_size[1:]",
            "slices": "$@roi_size[0]",
            "slice_axis": 0,
        }
    if conversion.settings.paint_order:
        inferer["region_labels"] = list(range(1, len(conversion.settings.paint_order) + 1))
        inferer["region_order"] = [channel - 1 for channel in conversion.settings.paint_order]
    return inferer


def lateral_pairs(labels: dict[str, Any]) -> list[list[int]]:
    """Values of a label table whose names differ in "left" and "right" alone."""
    values = {s.name.lower(): s.value for s in parse_label_table(labels)}
    mirrored = {name: name.replace("left", "right", 1) for name in values if "left" in name}
    return [[values[left], values[right]] for left, right in mirrored.items() if right in values]
