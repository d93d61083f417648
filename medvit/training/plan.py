"""The plan of a training, derived from the data and the network unless the user chooses otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from medvit.bundles.convert.configuration import lateral_pairs
from medvit.datasets import Manifest
from medvit.errors import MedvitError
from medvit.studies.labels import LabelTable
from medvit.training.base import Base
from medvit.training.case_facts import CaseFacts, ForegroundIntensity
from medvit.training.choices import Choices, Triple
from medvit.training.costs import Cost, windows_of
from medvit.training.handlers import duration
from medvit.training.network import fitted, lateral
from medvit.training.windows import affordable_on, batch_for, check_window, window_for

_EPOCHS = 100
_MARGIN = 1.5  # above the estimate of a validation, which excludes reading and scoring
_ANISOTROPIC = 3.0  # nnU-Net's factor, by which one axis must be coarser than another


@dataclass(frozen=True)
class Plan:
    """Everything from which the files of the trained bundle are made; plain values, for JSON.

    Parameters
    ----------
    base
        Name of the bundle, or of the network, that training starts from.
    task, modality
        Name of the data set, and its modality in DICOM's words.
    labels
        Label table in its JSON form.
    channels
        What the images of a study show.
    spacing, patch_size
        Spacing in mm and window in voxels along left-right, back-front, feet-head. One voxel along
        `slice_axis`.
    slice_axis
        Axis along which a two-dimensional network takes its slices; ``None`` in three dimensions.
    intensity
        Intensity scaling in the terms of ``medvit convert --intensity``.
    network
        Configuration of the network.
    pairs
        Values that swap with left and right.
    settings
        The remaining choices, complete.
    split, cases
        How training and validation were separated, and the number of cases of each.
    left_out
        Ids of broken cases.
    notes
        Facts that the user should know before starting.
    carried
        Sentence that says what was taken over from the bundle's weights.
    shape
        Median shape of the studies at `spacing`, in voxels.
    disk
        Bytes of the prepared cases.
    cost
        `Cost` of the training, where it was measured.
    """

    base: str
    task: str
    modality: str
    labels: dict[str, Any]
    channels: tuple[str, ...]
    spacing: Triple
    patch_size: tuple[int, int, int]
    slice_axis: int | None
    intensity: str
    network: dict[str, Any]
    mirror: bool
    pairs: tuple[tuple[int, int], ...]
    settings: dict[str, Any]
    split: str
    cases: dict[str, int]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    carried: str = ""
    shape: tuple[int, int, int] = (1, 1, 1)
    disk: int = 0
    cost: dict[str, float] | None = None

    @property
    def window(self) -> tuple[int, ...]:
        """The window along the network's axes."""
        return tuple(n for axis, n in enumerate(self.patch_size) if axis != self.slice_axis)

    @property
    def architecture(self) -> str:
        """Name of the network's class; of the innermost where others are put around it."""
        inner = self.network
        while isinstance(inner.get("network"), dict):
            inner = inner["network"]
        return str(inner["_target_"]).rpartition(".")[2]

    def lines(self) -> list[tuple[str, str]]:
        """The settings of the training, as pairs of a word and a clause."""
        names = [s["name"] for s in self.labels["structures"]]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        held_out = self.cases["validation"]
        return [
            ("network", f"{self.architecture}, from {self.base}"),
            ("images", f"{', '.join(self.channels)} ({self.modality or 'modality not stated'})"),
            ("structures", f"{len(names)}: {shown}"),
            *self._stored_values(),
            ("cases", f"{self.cases['training']} to train on, {held_out} to validate on ({self.split})"),
            ("spacing", f"{' x '.join(f'{mm:.4g}' for mm in self.spacing)} mm"),
            (
                "window",
                f"{' x '.join(map(str, self.patch_size))} voxels, {self.settings['batch_size']} a step",
            ),
            ("intensities", self.intensity),
            ("mirroring", "left and right" if self.mirror else "off"),
            ("schedule", self._schedule()),
            *(("note", note) for note in self.notes),
        ]

    def _stored_values(self) -> list[tuple[str, str]]:
        values = [str(s.get("stored", n)) for n, s in enumerate(self.labels["structures"], start=1)]
        renumbered = any("stored" in s for s in self.labels["structures"])
        return [("label values", f"{', '.join(values)}, as in the data set")] if renumbered else []

    def _schedule(self) -> str:
        s = self.settings
        if s["minutes"]:
            return f"{s['minutes']:g} min, epochs of {s['epoch_length']} steps, on {s['device']}"
        patience = f", stops after {s['patience']} epochs without improvement" if s["patience"] else ""
        return f"{s['epochs']} epochs of {s['epoch_length']} steps{patience}, on {s['device']}"

    def in_time(self, cost: Cost) -> Plan:
        """The plan with as many epochs as fit into its minutes as measured, and some to spare."""
        settings = dict(self.settings)
        if settings["minutes"]:
            validation = self._validation(cost)
            epoch = settings["epoch_length"] * cost.step + validation
            expected = 60 * settings["minutes"] / epoch
            # The last validation has at most half of the time; a training without steps learns nothing.
            kept = min(_MARGIN * validation, 30 * settings["minutes"])
            settings["validation_seconds"] = round(kept, 1)
            settings |= {"epochs": max(math.ceil(4 * expected), 1), "patience": 0}
            settings["steps"] = max(round(expected * settings["epoch_length"]), 1)
        return replace(self, settings=settings, cost=asdict(cost))

    def costs(self, cost: Cost) -> list[tuple[str, str]]:
        """Measured costs of the training, as pairs of a word and a clause."""
        s = self.settings
        epoch = s["epoch_length"] * cost.step + self._validation(cost)
        total = 60 * s["minutes"] if s["minutes"] else s["epochs"] * epoch
        steps = f"{cost.step:.2f} s a step, {duration(self._validation(cost))} a validation"
        return [
            ("time", f"{'' if s['minutes'] else 'at most about '}{duration(total)} ({steps})"),
            ("memory", f"{cost.memory / 1e9:.1f} GB in a few steps on {s['device']}"),
            ("disk", f"{self.disk / 1e6:.0f} MB of cases, {2 * cost.checkpoint / 1e6:.0f} MB of checkpoints"),
        ]

    def _validation(self, cost: Cost) -> float:
        """Seconds of a validation, without reading the studies."""
        windows = windows_of(self.shape, self.patch_size)
        return self.cases["validation"] * windows * cost.window


def make_plan(
    base: Base, manifest: Manifest, facts: Sequence[CaseFacts], choices: Choices, **cases: Any
) -> Plan:
    """A plan from a base, a survey of the cases, and the choices of the user.

    Parameters
    ----------
    facts
        Facts about all cases, as `medvit.training.case_facts` gives them.
    cases
        The plan's ``split``, ``cases`` and ``left_out``.

    Raises
    ------
    MedvitError
        If no case has a labelled voxel, or the network cannot take the window that was asked for.
    """
    table = manifest.labels
    assert table is not None, "only segmentation is planned"
    _check_names(manifest, table)
    definition, channels = base.network, len(manifest.channels)
    spacing = choices.spacing or median_spacing(facts)
    shapes = [np.array(f.shape) * f.spacing / spacing for f in facts]
    x, y, z = (max(round(n), 1) for n in np.median(shapes, axis=0).tolist())
    slice_axis = across_slices(base.slicewise, spacing)
    patch = _patch(base, (x, y, z), slice_axis, choices, channels)
    window = tuple(n for axis, n in enumerate(patch) if axis != slice_axis)
    batch_size = choices.batch_size or batch_for(window)
    check_window(definition, window, base.window, batch_size)
    labels = table.as_dict()
    pairs, mirror, notes = _mirroring(labels, choices.mirror)
    length = choices.epoch_length or _epoch_length(cases["cases"]["training"], batch_size)
    network = fitted(definition, channels, len(table) + 1, window)
    if base.lateral and all_sides(table):
        network = lateral(network, table)
    epochs = choices.epochs or _EPOCHS
    settings = asdict(choices) | {
        "fold": choices.fold or 0,
        "epochs": epochs, "epoch_length": length, "batch_size": batch_size,
        "device": str(choices.torch_device),
        "steps": epochs * length,
    }  # fmt: skip
    return Plan(
        base.name, manifest.name, manifest.modality, labels, tuple(manifest.channels), spacing, patch,
        slice_axis, intensity(manifest, facts), network, mirror, pairs, settings,
        notes=(*_regions_note(manifest), *_unseen(table.by_name, facts), *notes), shape=(x, y, z),
        # Images in two bytes a voxel, label maps in one.
        disk=round(sum(s.prod() for s in shapes) * (2 * channels + 1)), **cases,
    )  # fmt: skip


def _patch(
    base: Base, shape: tuple[int, int, int], slice_axis: int | None, choices: Choices, channels: int
) -> tuple[int, int, int]:
    """The window along all three axes, one voxel along `slice_axis`."""
    keep = [axis for axis in range(3) if axis != slice_axis]
    patch = [1, 1, 1]
    if choices.patch_size is not None:
        window = tuple(choices.patch_size[axis] for axis in keep)
    else:
        batch = (choices.batch_size or 2, channels)
        affordable = affordable_on(choices.torch_device, base.network, base.window, batch)
        window = window_for(base.network, [shape[a] for a in keep], base.window, affordable)
    for axis, edge in zip(keep, window, strict=True):
        patch[axis] = edge
    return patch[0], patch[1], patch[2]


def across_slices(slicewise: bool, spacing: Triple) -> int | None:
    """The axis across which the slices of a two-dimensional network lie; `None` for networks over volumes."""
    if not slicewise:
        return None
    return int(np.argmax(spacing)) if max(spacing) > 1.2 * min(spacing) else 2


def median_spacing(facts: Sequence[CaseFacts]) -> Triple:
    """The median spacing of the cases along each axis, in mm.

    Where one axis is more than three times coarser than the finest and has less than a third of its voxels,
    the tenth percentile of its spacings is taken instead, but no finer than the next axis: the many
    interpolated slices of a median would hold nothing that was measured.

    References
    ----------
    Isensee et al.: nnU-Net, Nature Methods 18, 2021 (supplement, target spacing).
    """
    spacings = np.array([f.spacing for f in facts])
    target = np.median(spacings, axis=0)
    shape = np.median([f.shape for f in facts], axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(3) if axis != worst]
    coarse = target[worst] > _ANISOTROPIC * target[others].min()
    if coarse and shape[worst] * _ANISOTROPIC < shape[others].max():
        target[worst] = max(np.percentile(spacings[:, worst], 10), target[others].max())
    x, y, z = (float(f"{mm:.4g}") for mm in target)
    return x, y, z


def intensity(manifest: Manifest, facts: Sequence[CaseFacts]) -> str:
    """Scaling of intensities: CT by those of all labelled voxels, everything else by the range of each image.

    CT is clipped to the 0.5th and 99.5th percentile of labelled voxels and standardised, as in nnU-Net;
    otherwise the 0.5th to 99.5th percentile of each channel becomes 0 to 1.

    Raises
    ------
    MedvitError
        If no case has a labelled voxel.
    """
    voxels = np.concatenate([f.intensities for f in facts], axis=1)
    if not voxels.size:
        raise MedvitError(f"{manifest.path}: no case has a labelled voxel, so there is nothing to learn")
    if manifest.modality != "CT" or len(manifest.channels) != 1:
        return "percentile"
    return ":".join(["window", *(f"{n:g}" for n in ForegroundIntensity.of(voxels))])


def all_sides(table: LabelTable) -> bool:
    """Whether there are structures with a side, and each has its other side."""
    sided = [s for s in table if s.side]
    return bool(sided) and len(sided) == 2 * len(list(table.pairs()))


def _check_names(manifest: Manifest, table: LabelTable) -> None:
    """Refuse names that a bundle's configuration would take for code or references."""
    for name in (*manifest.channels, *table.by_name):
        if name[:1] in ("$", "@", "%"):
            raise MedvitError(f"{manifest.path}: {name!r} cannot be the name of a structure or a channel")


def _mirroring(
    labels: dict[str, Any], wanted: bool | None
) -> tuple[tuple[tuple[int, int], ...], bool, list[str]]:
    names = [s["name"].lower() for s in labels["structures"]]
    pairs = tuple((int(a), int(b)) for a, b in lateral_pairs(labels))
    sided = {value for value, name in enumerate(names, 1) if {"left", "right"} & set(name.split())}
    alone = [names[value - 1] for value in sorted(sided - {v for pair in pairs for v in pair})]
    if alone and wanted:
        raise MedvitError(f"--mirror: {alone[0]!r} has no counterpart on the other side among the structures")
    if wanted is None:
        wanted = bool(pairs) and not alone
    if wanted or pairs:
        return pairs, wanted, []
    return pairs, False, ["No structure is named left or right, so windows are not mirrored (--mirror)."]


def _regions_note(manifest: Manifest) -> list[str]:
    if not manifest.regions:
        return []
    regions, parts = ", ".join(manifest.regions), ", ".join(s.name for s in manifest.labels or ())
    return [
        f"The parts are learned ({parts}), not the regions {regions}, which are put together to be scored."
    ]


def _unseen(names: Mapping[str, Any], facts: Sequence[CaseFacts]) -> list[str]:
    seen = frozenset().union(*(f.values for f in facts))
    unseen = [name for name, structure in names.items() if structure.value not in seen]
    return [f"No case has {', '.join(unseen)}: what is never seen cannot be learned."] if unseen else []


def _epoch_length(cases: int, batch_size: int) -> int:
    """Four windows of each case in an epoch, but at least 20 and at most 250 steps."""
    return min(max(math.ceil(4 * cases / batch_size), 20), 250)
