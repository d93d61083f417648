"""Axial slices of a data set as pairs of a degraded and a clean one, for the training of restorers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Orientation
from torch import Tensor

from medvit.bundles import Bundle, open_bundle
from medvit.datasets import Case, read_manifest
from medvit.datasets.splits import TEST, drawn_patients, patient_of
from medvit.errors import MedvitError
from medvit.studies import atomic_path, only_study, read_study, safe_name
from medvit.studies.manifests.cases import named_cases, why_empty
from medvit.synthesis.low_dose_ct import Scan, low_dose
from medvit.synthesis.restoration import log_uniform
from medvit.transforms import ScaleToUnitd
from medvit.transforms.restoration import UNIT

_KINDS = ("rician", "gaussian", "low-dose")
_TRIES = 20  # to find a slice that is not all air
_AIR = 0.05  # share of bright voxels below which a slice counts as air
_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Degradation:
    """The effect of a poorer scan on a clean slice.

    Parameters
    ----------
    kind
        ``"rician"`` or ``"gaussian"``, whose level is a standard deviation as a share of the unit (the 99.5
        percentile in MR); ``"low-dose"``, whose level is a share of the dose of a CT; ``""`` for pairs.
    low, high
        Range of the level, which is drawn log-uniformly.
    """

    kind: str = ""
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Degradation:
        """A degradation from words such as ``"rician:0.01:0.1"`` or ``"low-dose:0.25"``.

        Raises
        ------
        MedvitError
            If they do not name a degradation with one level or two.

        Examples
        --------
        >>> Degradation.parse("gaussian:0.05")
        Degradation(kind='gaussian', low=0.05, high=0.05)
        """
        if not text:
            return cls()
        kind, *levels = text.split(":")
        try:
            numbers = [float(level) for level in levels]
        except ValueError:
            numbers = []
        most = 1.0 if kind == "low-dose" else math.inf
        if kind not in _KINDS or len(numbers) not in (1, 2) or not 0 < numbers[0] <= numbers[-1] <= most:
            raise MedvitError(
                f"--degrade {text!r}: give {', '.join(_KINDS[:-1])} or {_KINDS[-1]} with a level or a range, "
                "such as rician:0.01:0.1 (share of the brightest) or low-dose:0.1:0.5 (share of the dose)"
            )
        return cls(kind, numbers[0], numbers[-1])

    def __call__(self, clean: Tensor, unit: float, spacing: float, generator: torch.Generator) -> Tensor:
        """A degraded slice (H, W), in the units of the clean one, in which `unit` is 1."""
        level = log_uniform((self.low, self.high), generator) if self.high > self.low else self.low
        if self.kind == "low-dose":
            return low_dose(clean[None] * unit, spacing, Scan(dose=level), generator)[0] / unit
        noise = level * torch.randn((2, *clean.shape), generator=generator)
        return torch.hypot(clean + noise[0], noise[1]) if self.kind == "rician" else clean + noise[0]


class SliceSource:
    """Draws a slice of prepared volumes: a pair of a degraded and a clean one.

    Parameters
    ----------
    volumes
        Files of (1 or 2, X, Y, Z): a clean image, or a degraded and a clean one.
    facts
        Unit and in-plane spacing (mm) of each.
    degradation
        Of clean images.
    """

    def __init__(
        self, volumes: Sequence[Path], facts: Sequence[tuple[float, float]], degradation: Degradation
    ) -> None:
        self.volumes, self.facts, self.degradation = list(volumes), list(facts), degradation

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A degraded and a clean slice, (X, Y) each."""
        number = int(torch.randint(len(self.volumes), (), generator=generator))
        volume = np.load(self.volumes[number], mmap_mode="r")
        for _ in range(_TRIES):
            place = int(torch.randint(volume.shape[3], (), generator=generator))
            slices = torch.from_numpy(volume[..., place].astype(np.float32))
            clean = slices[-1]
            if (clean > 0.1 * clean.max().clamp(min=1e-6)).float().mean() > _AIR and clean.std() > 0:
                break
        if len(slices) == 2:
            return slices[0], clean
        return self.degradation(clean, *self.facts[number], generator), clean


class RestorationSlices:
    """The slices of a data set for the training and the validation of a restorer.

    Parameters
    ----------
    manifest
        Manifest without labels.
    folder
        Folder of the data set; empty for that of the manifest.
    bundle_root
        Bundle whose limits, unit and window are used.
    scratch
        Folder for the prepared volumes.
    degradation
        Degradation of clean images; one without a kind requires pairs.
    val_fraction, seed
        Share of the patients to validate on, and seed of their draw.

    Raises
    ------
    MedvitError
        If there are no cases, or one has no target though no degradation is stated.
    StudyError
        If an image cannot be read, or lies on another grid than its target.
    """

    def __init__(
        self,
        manifest: str | Path,
        folder: str | Path,
        bundle_root: str | Path,
        scratch: str | Path,
        degradation: Degradation,
        val_fraction: float = 0.2,
        seed: int = 0,
    ) -> None:
        listing = read_manifest(manifest)
        folder = Path(folder) if folder else listing.path.parent
        opened = open_bundle(Bundle(Path(bundle_root)))
        self.name, self.degradation = listing.name, degradation
        limits, unit, window = (opened.part(part) for part in ("limits", "unit", "window"))
        # Regions are distinguished in the units of the network.
        self.window = (window[0] / (unit or 1.0), window[1] / (unit or 1.0))
        self.scale = ScaleToUnitd("image", limits, unit)
        self.scratch = Path(scratch)
        found = [c for c in named_cases(listing, folder) if not set(TEST) & set(listing.splits_of(c.id))]
        if not found:
            raise MedvitError(why_empty(listing, folder))
        held_out = drawn_patients([patient_of(case.id) for case in found], val_fraction, seed)
        parts: dict[bool, list[tuple[Path, tuple[float, float]]]] = {True: [], False: []}
        self.smallest = 10**6
        for case in found:
            parts[patient_of(case.id) in held_out].append(self._prepared(case))
        self.cases = {"training": len(parts[False]), "validation": len(parts[True])}
        self.training, validation = (
            SliceSource([f for f, _ in parts[kept]], [n for _, n in parts[kept]], degradation)
            for kept in (False, True)
        )
        self.validation = validation if parts[True] else None

    def sample_shape(self, most: int) -> list[int]:
        """Edges of the samples: `most` pixels, or fewer in multiples of 16 where slices are smaller."""
        return [min(most, self.smallest // 16 * 16)] * 2

    def lines(self) -> list[str]:
        """The data of the training, in lines."""
        pairs = f"degraded: {self.degradation}" if self.degradation.kind else "pairs of image and target"
        return [
            f"cases        {self.cases['training']} to train on, {self.cases['validation']} to validate on",
            f"slices       {pairs}",
        ]

    def _prepared(self, case: Case) -> tuple[Path, tuple[float, float]]:
        """The file of a case's volumes in the network's units; its unit and spacing."""
        paths: list[Path] = [*case.images[:1]]
        if not self.degradation.kind:
            if case.target is None:
                raise MedvitError(
                    f"case {case.id} has no target to restore to: list one, or state how clean images are "
                    "degraded with --degrade"
                )
            paths.append(case.target)
        studies = [read_study(only_study(path)) for path in paths]
        first = studies[0]
        if any(not first.grid.matches(other.grid) for other in studies[1:]):
            raise MedvitError(f"case {case.id}: its image and its target do not lie on one grid")
        turn = Orientation(axcodes="RAS", labels=_LABELS)
        scaled: Any = self.scale({"image": turn(first.image)})["image"]
        unit = float(scaled.meta[UNIT])
        volumes = [scaled.numpy()[0]]
        for other in studies[1:]:
            volumes.append(turn(other.image).numpy()[0].clip(*self.scale.limits) / unit)
        stack = np.stack(volumes).astype(np.float32)
        if min(stack.shape[1:3]) < 16:
            raise MedvitError(f"case {case.id}: its axial slices are narrower than 16 voxels")
        self.smallest = min(self.smallest, *stack.shape[1:3])
        file = self.scratch / f"{safe_name(case.id)}.npy"
        with atomic_path(file) as partial:
            np.save(partial, stack)
        spacing = float(np.linalg.norm(np.asarray(scaled.affine)[:3, 0]))
        return file, (unit, spacing)
