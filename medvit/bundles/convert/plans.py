"""The nnU-Net plan inside an nnU-Net checkpoint: strides, patch, spacing, intensities and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NNUNetPlan:
    """Training settings that an nnU-Net checkpoint states; each is `None` where it states none.

    Parameters
    ----------
    strides, kernel_size
        One entry per stage, along the network's axes (Z, Y, X, or Y, X).
    patch_size, spacing
        Voxels and mm along the network's axes.
    intensity
        In the words of ``--intensity``.
    labels
        Names of the classes after the background; `None` for regions.
    axes
        For each axis of the network, which of (Z, Y, X) it is.
    """

    strides: list[list[int]] | None = None
    kernel_size: list[list[int]] | None = None
    patch_size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    intensity: str | None = None
    labels: tuple[str, ...] | None = None
    axes: tuple[int, ...] = (0, 1, 2)


def read_plan(checkpoint: Any) -> NNUNetPlan:
    """The plan of an nnU-Net v2 checkpoint (its ``init_args``); an empty one where there is none.

    Parameters
    ----------
    checkpoint
        Content of the file.
    """
    arguments = checkpoint.get("init_args") if isinstance(checkpoint, Mapping) else None
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("plans"), Mapping):
        return NNUNetPlan()
    plans, dataset = arguments["plans"], arguments.get("dataset_json") or {}
    configuration = plans.get("configurations", {}).get(arguments.get("configuration"), {})
    spacing, patch = configuration.get("spacing"), configuration.get("patch_size")
    return NNUNetPlan(
        strides=configuration.get("pool_op_kernel_sizes"),
        kernel_size=configuration.get("conv_kernel_sizes"),
        patch_size=None if patch is None else tuple(int(n) for n in patch),
        spacing=None if spacing is None else tuple(float(mm) for mm in spacing),
        intensity=_intensity(plans, configuration),
        labels=_labels(dataset.get("labels")),
        axes=tuple(plans.get("transpose_forward", (0, 1, 2))),
    )


def _intensity(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> str | None:
    schemes = set(configuration.get("normalization_schemes", ()))
    if schemes == {"ZScoreNormalization"}:
        return "zscore:nonzero" if any(configuration.get("use_mask_for_norm", ())) else "zscore"
    properties = plans.get("foreground_intensity_properties_per_channel", {})
    if schemes == {"CTNormalization"} and len(properties) == 1:
        (p,) = properties.values()
        names = ("percentile_00_5", "percentile_99_5", "mean", "std")
        return ":".join(["window", *(f"{p[name]:g}" for name in names)])
    return None


def _labels(labels: Any) -> tuple[str, ...] | None:
    """Names in order of value; nothing for overlapping regions, whose order of painting must be given."""
    if not isinstance(labels, Mapping) or not all(isinstance(v, int) for v in labels.values()):
        return None
    names = {value: str(name) for name, value in labels.items() if value > 0 and name != "ignore"}
    return tuple(names[value] for value in sorted(names))
