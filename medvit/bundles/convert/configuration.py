"""The inference workflow of a converted bundle, with the identifiers that all our bundles have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvit.bundles.convert.settings import Conversion, axis_order, intensity_transform
from medvit.studies.labels import parse_label_table


def inference_section(conversion: Conversion) -> dict[str, Any]:
    """The entries that the template ``segmentation`` leaves open: network, grid, intensities and windows."""
    settings = conversion.settings
    entries: dict[str, Any] = {
        "spacing": conversion.spacing,
        "roi_size": conversion.roi,
        "channels": settings.channels or conversion.found.arguments["in_channels"],
        "network_def": {
            "_target_": f"medvit.networks.{conversion.found.target}",
            **conversion.found.arguments,
        },
        "preprocessing#transforms": preprocessing(
            conversion.spacing, settings.orientation, settings.intensity, conversion.roi
        ),
        **_inferer(conversion),
    }
    if conversion.spacing is None:  # whole slices, resized
        entries["overlap"] = 0.0
    return entries


def preprocessing(
    spacing: Sequence[float] | None, orientation: str, intensity: str, roi: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Transforms from a study to the network's axes, spacing and intensities.

    Parameters
    ----------
    spacing
        Spacing in mm along the axes of `orientation`; ``None`` to resize whole slices to `roi`.
    orientation, intensity
        In the words of `ConversionSettings`.
    roi
        Window of the network, of which only the size of the slices is used.
    """
    resample: dict[str, Any] = {
        "_target_": "medvit.transforms.ResampleImaged",
        "keys": "@image_key",
        "spacing": "@spacing",
    }
    if spacing is None:
        # A slice as a whole, as the authors train and test; results go back by the affine.
        resample = {
            "_target_": "Resized",
            "keys": "@image_key",
            "spatial_size": [-1, *roi[1:]],
            "mode": "trilinear",
        }
    return [
        {"_target_": "medvit.transforms.LoadStudyd", "keys": "@image_key"},
        {
            "_target_": "Orientationd",
            "keys": "@image_key",
            "axcodes": orientation,
            "labels": [["L", "R"], ["P", "A"], ["I", "S"]],
        },
        resample,
        intensity_transform(intensity),
    ]


def _inferer(conversion: Conversion) -> dict[str, Any]:
    lateral_axis = axis_order(conversion.settings.orientation).index(0)
    paint_order = conversion.settings.paint_order
    entries: dict[str, Any] = {
        "inferer#flips": {
            "_target_": "medvit.inference.Flips",
            "axes": f"$[{lateral_axis}] if @tta else []",
            "lateral_axis": lateral_axis,
            "lateral_pairs": [] if paint_order else lateral_pairs(conversion.labels),
        },
    }
    if conversion.found.spatial_dims == 2:
        entries |= {
            "inferer#_target_": "medvit.inference.SliceInferer",
            "inferer#roi_size": "$@roi_size[1:]",
            "inferer#slices": "$@roi_size[0]",
            "inferer#slice_axis": 0,
        }
    if paint_order:
        entries["inferer#region_labels"] = list(range(1, len(paint_order) + 1))
        entries["inferer#region_order"] = [channel - 1 for channel in paint_order]
    return entries


def lateral_pairs(labels: dict[str, Any]) -> list[list[int]]:
    """Values of a label table whose names differ in "left" and "right" alone."""
    values = {s.name.lower(): s.value for s in parse_label_table(labels)}
    mirrored = {name: name.replace("left", "right", 1) for name in values if "left" in name}
    return [[values[left], values[right]] for left, right in mirrored.items() if right in values]
