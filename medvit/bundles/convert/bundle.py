"""Conversion of a published checkpoint into the folder of a bundle, written whole or not at all."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvit import networks
from medvit.bundles import Bundle
from medvit.bundles.convert.configuration import inference_section
from medvit.bundles.convert.deduction import Deduction, deduce
from medvit.bundles.convert.documents import licence_note, metadata_section, readme
from medvit.bundles.convert.plans import NNUNetPlan, read_plan
from medvit.bundles.convert.settings import Conversion, ConversionSettings, axis_order, label_table
from medvit.bundles.write import bundle_files, refuse_existing, write_bundle
from medvit.errors import MedvitError, WeightsError
from medvit.networks.published import StateDict, open_checkpoint, read_checkpoint
from medvit.studies import sha256_of
from medvit.studies.labels import parse_label_table

# Directions of the axes of the authors' arrays. nnU-Net's networks read (Z, Y, X) as SimpleITK gives it,
# of files stored left, back, up; the others state their orientation.
ORIENTATIONS = {"SwinUNETR": "RAS", "SegFormer3D": "SAR"}
_SIMPLE_ITK = "SPL"

# Networks that were trained on whole slices, resized.
RESIZES = ("TransUNet", "ParaTransCNN")


def convert_checkpoint(
    network: str, checkpoint: str | Path, output: str | Path, settings: ConversionSettings
) -> Bundle:
    """Convert a published checkpoint into a bundle for ``medvit run FOLDER ... --trust``.

    Parameters
    ----------
    network
        Name of the network, such as ``"SegFormer3D"``.
    checkpoint
        The authors' file. What it states itself need not be given: shapes of the network, and for nnU-Net's
        files the plan.
    output
        Folder of the bundle; must not hold anything yet.
    settings
        Facts that the checkpoint does not state; they override those that it states.

    Raises
    ------
    MedvitError
        If the folder is not empty, or something is missing or contradictory; the message names all of it.
    WeightsError
        If the checkpoint cannot be opened or does not fit.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    refuse_existing(output)
    content = open_checkpoint(checkpoint)
    state = read_checkpoint(content)
    conversion = _complete(deduce(network, state), read_plan(content), settings, checkpoint)
    built = _build(conversion.found)
    _fill(built, state, conversion.found)
    return _write(output, built, conversion)


def _complete(
    found: Deduction, plan: NNUNetPlan, settings: ConversionSettings, checkpoint: Path
) -> Conversion:
    """The settings, completed from the plan; one error names everything that is still missing."""
    if plan.strides is not None and "strides" in found.needs:
        found.complete({"strides": plan.strides, "kernel_size": plan.kernel_size})
    found.complete(settings.arguments)
    settings = _from_plan(found, plan, settings)
    order = axis_order(settings.orientation)
    roi = None if settings.roi is None else tuple(settings.roi[a] for a in order)
    spacing = None if settings.spacing is None else tuple(settings.spacing[a] for a in order)
    if roi is None and found.img_size is not None:
        roi = (8, *found.img_size) if found.spatial_dims == 2 else found.img_size
    if roi is not None and "img_size" in found.needs and found.target == "XLSTMUNet":
        found.complete({"img_size": list(roi[-found.spatial_dims :])})
    missing = [f"--set {name}=... ({why})" for name, why in found.needs.items()]
    if not settings.labels:
        missing.append(f"--labels (what the {found.arguments['out_channels']} channels of the output mean)")
    if spacing is None and found.target not in RESIZES:
        missing.append("--spacing X Y Z (mm, of the training)")
    if roi is None:
        missing.append("--roi X Y Z (voxels of a window)")
    if not settings.intensity:
        missing.append("--intensity percentile|zscore|window:LOW:HIGH (of the training)")
    if missing or roi is None:
        raise MedvitError(f"{checkpoint}: the weights do not determine everything; give {', '.join(missing)}")
    labels = label_table(settings.labels)
    _check_labels(found, settings, len(parse_label_table(labels)))
    return Conversion(found, settings, checkpoint, labels, spacing, roi)


def _from_plan(found: Deduction, plan: NNUNetPlan, settings: ConversionSettings) -> ConversionSettings:
    """`settings`, with the plan's and the published values where the user gave none."""
    orientation = (
        settings.orientation
        or ORIENTATIONS.get(found.target)
        or "".join(_SIMPLE_ITK[axis] for axis in plan.axes)
    )
    order = axis_order(orientation)
    taken: dict[str, Any] = {"orientation": orientation}
    if not settings.orientation and found.target not in ORIENTATIONS:
        found.assumed.append("training images were stored left, back, up and read as (Z, Y, X)")
    if not settings.labels and plan.labels:
        taken["labels"] = ",".join(plan.labels)
    if not settings.intensity and plan.intensity:
        taken["intensity"] = plan.intensity
    if settings.spacing is None and plan.spacing is not None and len(plan.spacing) == 3:
        taken["spacing"] = tuple(plan.spacing[order.index(a)] for a in range(3))
    if settings.roi is None and plan.patch_size is not None:
        # In two dimensions the windows are eight slices deep.
        patch = (8, *plan.patch_size)[-3:]
        taken["roi"] = tuple(patch[order.index(a)] for a in range(3))
    return replace(settings, **taken)


def _check_labels(found: Deduction, settings: ConversionSettings, given: int) -> None:
    images = found.arguments["in_channels"]
    if settings.channels and len(settings.channels) != images:
        raise MedvitError(f"the network takes {images} images, but --channels names {len(settings.channels)}")
    if not settings.channels and images > 1:
        found.assumed.append(f"the {images} images of a study are numbered in the order of the training")
    channels = found.arguments["out_channels"]
    if settings.paint_order:
        if given != channels or sorted(settings.paint_order) != list(range(1, channels + 1)):
            raise MedvitError(
                f"the network has {channels} overlapping regions: give as many labels, in order of channels, "
                f"and in --paint-order each channel from 1 to {channels} once"
            )
    elif given != channels - 1:
        raise MedvitError(
            f"the network has {channels} channels, so it needs {channels - 1} labels beside the background, "
            f"not {given}; for overlapping regions with a sigmoid each, give as many labels as channels, "
            "and --paint-order"
        )


def _build(found: Deduction) -> nn.Module:
    network = getattr(networks, found.target)
    known = inspect.signature(network).parameters
    unknown = [name for name in found.arguments if name not in known]
    if unknown:
        raise MedvitError(f"{found.target} has no argument {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return network(**found.arguments)
    except (ValueError, TypeError) as error:
        raise MedvitError(f"{found.target} cannot be built with these arguments: {error}") from error


def _fill(network: Any, state: StateDict, found: Deduction) -> None:
    merging = found.arguments.get("patch_merging")
    options: Mapping[str, Any] = {} if merging is None else {"patch_merging": merging}
    network.load_published(state, **options)


def _write(output: Path, network: nn.Module, conversion: Conversion) -> Bundle:
    # Tensors in the file share no memory and keep the precision that they were published in.
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    _check_window(network, conversion)
    checkpoint = sha256_of(conversion.checkpoint)

    def save(path: Path) -> None:
        torch.save(state, path)

    def contents(weights: Path) -> dict[str, str]:
        specification = {
            "template": "segmentation",
            "inference": inference_section(conversion),
            "metadata": metadata_section(conversion, output.name, sha256_of(weights)),
        }
        return {
            **bundle_files(output.name, specification, ("inference",)),
            "docs/README.md": readme(conversion, output.name, checkpoint),
            "LICENSE": licence_note(conversion, checkpoint),
        }

    return write_bundle(output, save, contents)


def _check_window(network: nn.Module, conversion: Conversion) -> None:
    """Refuse a window that the network cannot take; it is run without numbers, for its checks alone."""
    found = conversion.found
    shape = (1, found.arguments["in_channels"], *conversion.roi[-found.spatial_dims :])
    try:
        with torch.no_grad():
            network.eval().to("meta")(torch.empty(shape, device="meta"))
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{found.target} cannot take windows of {shape[2:]}: {error}") from error
