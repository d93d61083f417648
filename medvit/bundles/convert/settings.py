"""Settings that a state dict does not show and the user states: labels, spacing, windows, intensity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvit.bundles.convert.deduction import Deduction
from medvit.errors import MedvitError


@dataclass(frozen=True)
class ConversionSettings:
    """Facts about a checkpoint that the user states.

    Parameters
    ----------
    labels
        Names of the structures, separated by commas, or a JSON label table; of classes without the
        background, or one for each overlapping region.
    spacing
        Spacing in mm that the network was trained at: left-right, front-back, feet-head.
    roi
        Voxels of a window, in the same order.
    intensity
        ``"percentile"`` (0.5 % to 99.5 % to 0..1), ``"zscore"``, ``"zscore:nonzero"``,
        ``"window:LOW:HIGH"`` (clipped, to 0..1) or ``"window:LOW:HIGH:MEAN:STD"`` (clipped, standardised,
        as nnU-Net treats CT).
    paint_order
        For overlapping regions with a sigmoid each: channels from 1 in the order in which they are
        painted over one another.
    orientation
        Directions of the axes of the array, such as ``"RAS"``; empty for the network's published ones.
    channels
        Contrasts of the images of a study, in order of the network's channels; empty for images that are
        numbered.
    arguments
        Arguments of the network's constructor.
    """

    labels: str = ""
    spacing: tuple[float, ...] | None = None
    roi: tuple[int, ...] | None = None
    intensity: str = ""
    paint_order: tuple[int, ...] = ()
    orientation: str = ""
    channels: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """Everything from which the files of a converted bundle are made.

    Parameters
    ----------
    found
        The network.
    settings
        Complete.
    checkpoint
        The published file.
    labels
        Label table in its JSON form.
    spacing, roi
        Along the network's axes; no spacing where slices are resized to `roi`.
    """

    found: Deduction
    settings: ConversionSettings
    checkpoint: Path
    labels: dict[str, Any]
    spacing: tuple[float, ...] | None
    roi: tuple[int, ...]


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` texts as arguments; a value is JSON, numbers with commas, or otherwise a text.

    Raises
    ------
    MedvitError
        If one has no ``=``.

    Examples
    --------
    >>> parse_assignments(["group_size=2,8,8", "attention_scale=heads", "strides=[1, [1, 2, 2]]"])
    {'group_size': [2, 8, 8], 'attention_scale': 'heads', 'strides': [1, [1, 2, 2]]}
    """
    arguments = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not (name and equals):
            raise MedvitError(f"--set takes KEY=VALUE, not {assignment!r}")
        arguments[name] = _value(text)
    return arguments


def parse_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    Raises
    ------
    MedvitError
        If the text is anything else.
    """
    try:
        return tuple(int(number) for number in text.split(",")) if text else ()
    except ValueError as error:
        raise MedvitError(f"--paint-order takes whole numbers with commas, not {text!r}") from error


def _value(text: str) -> Any:
    for form in (text, f"[{text}]"):
        try:
            return json.loads(form)
        except ValueError:
            continue
    return text


def intensity_transform(intensity: str) -> dict[str, Any]:
    """The MONAI transform for an intensity in the words of `ConversionSettings`.

    Raises
    ------
    MedvitError
        If the words do not name an intensity scaling.
    """
    kind, *numbers = intensity.split(":")
    if intensity == "percentile":
        return {
            "_target_": "ScaleIntensityRangePercentilesd", "keys": "@image_key", "lower": 0.5, "upper": 99.5,
            "b_min": 0.0, "b_max": 1.0, "clip": True, "channel_wise": True,
        }  # fmt: skip
    if intensity in ("zscore", "zscore:nonzero"):
        return {
            "_target_": "NormalizeIntensityd", "keys": "@image_key", "nonzero": bool(numbers),
            "channel_wise": True,
        }  # fmt: skip
    try:
        low, high, *moments = [float(n) for n in numbers]
        # Without moments the lower end becomes 0 and the upper 1.
        mean, std = moments or (low, high - low)
    except ValueError:
        low, high, mean, std = 0.0, 0.0, 0.0, 0.0
    if kind != "window" or not low < high or std <= 0:
        raise MedvitError(
            "--intensity takes percentile, zscore, zscore:nonzero, window:LOW:HIGH or "
            f"window:LOW:HIGH:MEAN:STD, not {intensity!r}"
        )
    return {
        "_target_": "ScaleIntensityRanged", "keys": "@image_key", "a_min": low, "a_max": high,
        "b_min": (low - mean) / std, "b_max": (high - mean) / std, "clip": True,
    }  # fmt: skip


def label_table(labels: str) -> dict[str, Any]:
    """A label table in its JSON form, from names separated by commas or from a file.

    Raises
    ------
    MedvitError
        If the file cannot be read as a table.
    """
    if not labels.endswith(".json"):
        names = [name.strip() for name in labels.split(",")]
        if not all(names) or len(set(names)) < len(names):
            raise MedvitError(f"--labels {labels}: give names that differ from each other")
        return {"name": "labels", "structures": [{"name": name} for name in names]}
    try:
        content = json.loads(Path(labels).read_text(encoding="utf-8"))
        return {"name": Path(labels).stem, **content, "structures": list(content["structures"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedvitError(
            f"{labels}: is not a label table, but needs JSON with 'structures', entries with a 'name'"
        ) from error


def axis_order(orientation: str) -> tuple[int, int, int]:
    """The patient axis along which each array axis runs: 0 left-right, 1 front-back, 2 feet-head.

    Raises
    ------
    MedvitError
        If the orientation does not name three axes.
    """
    axes = {direction: axis for axis, pair in enumerate(("LR", "PA", "IS")) for direction in pair}
    order = tuple(axes.get(direction, -1) for direction in orientation)
    if sorted(order) != [0, 1, 2]:
        raise MedvitError(f"--orientation takes three directions, such as RAS or SPL, not {orientation!r}")
    return order[0], order[1], order[2]
