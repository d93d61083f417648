"""Quality control: doubts about a result, with what was seen and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medvit.metrics.difference import Difference
from medvit.reports.brain import brain_totals
from medvit.reports.image_quality import ImageQuality
from medvit.reports.measurement import INTRACRANIAL, Measurements, StructureMeasurement
from medvit.studies.study import Grid

Level = Literal["info", "warning", "serious"]
Light = Literal["green", "amber", "red"]

# A structure that meets a face of the scan with more than this is cut; with less it merely touches.
CUT_MM2 = 100.0
# A brain that meets the faces of the scan with more than this is cut, not only its stem at the foot.
BRAIN_CUT_MM2 = 1000.0
# Intracranial volumes of adults, in litres; others indicate another body part or a failed segmentation.
INTRACRANIAL_L = (0.9, 2.1)
# Share of brain in the intracranial volume; more means that the fluid around the brain is missing.
MOST_BRAIN = 0.9
# With more than this share of the structures of a table missing, the rest cannot be relied on.
MANY_ABSENT = 0.25
# The midpoint between both sides of a pair may lie this far from the plane between the hemispheres.
OFF_MIDPLANE_MM = 15.0
# Fewer pairs than this do not define a plane.
ENOUGH_PAIRS = 3
# Further pieces that hold more than this share of a structure, and at least this volume.
LOOSE_SHARE, LOOSE_ML = 0.03, 0.15
# Beyond a bound of the plausible range by this factor, a volume is a serious finding.
FAR_OUT = 1.6
LOW_CONFIDENCE = 0.7
LOW_SNR = 8.0
# Correlation of neighbouring voxels below which an image is noise alone; a head in air has 0.5 or more.
INCOHERENT = 0.1
UNEVEN = 0.1
THICK_MM = 4.0
FEW_SLICES = 8
# Of what a restoration took out: correlation with fine structure, mean in standard deviations, and share of
# voxels beyond the range before; first for a warning, then serious. Sound denoisers on noisy T1 and T2 heads
# have correlations up to 0.25 and shifts up to 0.5 (Rician noise brightens), blurred heads 0.45 and more. In
# CT restored from a quarter of the dose, correlations are 0.05 to 0.12; total variation has 0.5, blur 0.8.
REMOVED_DETAIL = (0.35, 0.55)
SHIFTED = (0.75, 1.5)
BEYOND = (0.01, 0.1)
# Deviation of an estimate from its measured slices, see `medvit.reports.comparison.contradiction`. Of two T1
# heads in thick slices and in coarse pixels, with and without noise, interpolations and the true images stay
# below 0.12; blurred images reach 0.16, images shifted by half a slice 0.2, darker ones 0.5.
CONTRADICTED = (0.15, 0.3)
# Smaller changes, as a share of the image's standard deviation, take nothing out that a reader could miss.
NEGLIGIBLE = 0.01
# Share of the estimated noise in what is taken out. Heads without added noise, or with 2 % in a T1, have 0.22
# to 0.28, with 5 % 0.59 and more. A perfect restoration of a phantom has 0.42, as has a perfusion series in
# coarse voxels that it makes worse by 3 to 5 dB (0.40 to 0.43): no limit tells these two apart.
LITTLE_NOISE = 0.4
# A CT in HU has values below that of water; values beyond these bounds are not HU.
HU_RANGE = (-4096.0, 32767.0)


@dataclass(frozen=True)
class Flag:
    """One finding of quality control.

    Parameters
    ----------
    code
        Stable name ("implausible_volume"), under which the language tables have its words.
    level
        ``"info"`` does not count towards the light, ``"warning"`` turns it amber, ``"serious"`` red.
    structures
        Names from the label table, most affected first; empty when the whole study is meant.
    values
        Figures to which the words refer.
    """

    code: str
    level: Level
    structures: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The judgement of quality control: the light, and the first finding that counts, as a sentence."""

    light: Light
    finding: str = ""

    def __str__(self) -> str:
        return f"{self.light}: {self.finding}" if self.finding else self.light

    @classmethod
    def of(cls, measurements: Mapping[str, Any]) -> Verdict:
        """The verdict from the content of a ``measurements.json``, in English."""
        quality = measurements["quality"]
        counted = [flag["seen"] for flag in quality["flags"] if flag["level"] != "info"]
        return cls(quality["light"], counted[0] if counted else "")


def traffic_light(flags: Collection[Flag]) -> Light:
    """Red with any serious flag, amber with any warning, else green."""
    levels = {flag.level for flag in flags}
    return "red" if "serious" in levels else "amber" if "warning" in levels else "green"


def check_quality(
    measurements: Measurements,
    grid: Grid,
    image_quality: ImageQuality | None = None,
    *,
    modality: str = "",
    expected_modalities: Collection[str] = (),
    forced: str = "",
    difference: Difference | None = None,
    contradicted: float = 0.0,
) -> tuple[Flag, ...]:
    """All findings of quality control on a result, serious ones first.

    Parameters
    ----------
    measurements
        Measurements of the label map.
    grid
        Grid of the study.
    image_quality
        Quality of the image, where there is one.
    modality, expected_modalities
        DICOM modality of the study, and those that the bundle was made for; checked when both are known.
    forced
        Reason why the bundle refused the study, if the refusal was overruled.
    difference
        Assessment of what a restoration on the study's own grid removed from the image.
    contradicted
        Deviation of an estimate on a finer grid from the measured slices, as a share of its spread.
    """
    flags = [*_findings(measurements), *_grid_findings(grid)]
    if image_quality is not None:
        flags += _image_findings(image_quality, modality)
    if difference is not None:
        flags += _restoration_findings(difference)
    if level := _level(contradicted, CONTRADICTED):
        flags.append(Flag("contradicts_slices", level, values={"percent": 100 * contradicted}))
    if modality and expected_modalities and modality not in expected_modalities:
        flags.append(
            Flag(
                "modality", "serious", values={"found": modality, "expected": ", ".join(expected_modalities)}
            )
        )
    if forced:
        flags.insert(0, Flag("forced", "serious", values={"why": forced}))
    rank = {"serious": 0, "warning": 1, "info": 2}
    # An image without content is reported first: it makes every other finding meaningless.
    first = ("forced", "flat_image", "noise_alone")
    return tuple(sorted(flags, key=lambda flag: (flag.code not in first, rank[flag.level])))


def _findings(measurements: Measurements) -> Iterator[Flag]:
    if not measurements.structures:  # a restoration does not search for structures
        return
    if not measurements.present:
        yield Flag("nothing_found", "serious")
        return
    yield from _brain_findings(measurements)
    if absent := measurements.absent:
        many = len(absent) > MANY_ABSENT * len(measurements.structures)
        yield Flag("absent", "serious" if many else "warning", _names(absent))
    yield from _border_findings(measurements)
    loose = [m for m in measurements.present if _is_loose(m)]
    if loose:
        loose.sort(key=lambda m: m.largest_part)
        yield Flag("disconnected", "warning", _names(loose))
    yield from _volume_findings(measurements)
    unsure = [m for m in measurements.present if m.confidence is not None and m.confidence < LOW_CONFIDENCE]
    if unsure:
        unsure.sort(key=lambda m: m.confidence or 0.0)
        lowest = unsure[0].confidence or 0.0
        yield Flag("low_confidence", "warning", _names(unsure), {"lowest_percent": 100 * lowest})


def _brain_findings(measurements: Measurements) -> Iterator[Flag]:
    """Checks for whole heads only: size, completeness, and mirrored sides."""
    if measurements.whole_name != INTRACRANIAL:
        return
    low, high = INTRACRANIAL_L
    if not low <= measurements.whole_ml / 1000 <= high:
        values = {"ml": round(measurements.whole_ml), "low_l": low, "high_l": high}
        yield Flag("intracranial_volume", "serious", values=values)
    organs = [m for m in measurements.present if m.border and not _is_fluid(m)]
    cut_mm2 = sum(m.border_mm2 for m in organs)
    if cut_mm2 > BRAIN_CUT_MM2:
        faces = sorted({face for m in organs for face in m.border})
        yield Flag("brain_cut", "serious", values={"faces": faces, "area_cm2": cut_mm2 / 100})
    totals = brain_totals(measurements)
    if totals is not None and totals.parenchymal_fraction > MOST_BRAIN:
        yield Flag("fluid_missing", "warning", values={"percent": 100 * totals.parenchymal_fraction})
    yield from _mirror_findings(measurements)


def _mirror_findings(measurements: Measurements) -> Iterator[Flag]:
    """Pairs whose sides are exchanged, or that do not mirror at the plane between all pairs."""
    found = {m.structure.name: m for m in measurements.present}
    pairs = [
        (m, found[f"right {m.structure.unsided_name}"])
        for m in measurements.present
        if m.structure.side == "left" and f"right {m.structure.unsided_name}" in found
    ]
    if len(pairs) < ENOUGH_PAIRS:
        return
    left, right = (np.array([pair[i].centroid for pair in pairs], float) for i in (0, 1))
    across, middle = np.median(right - left, axis=0), (left + right) / 2
    normal = across / max(float(np.linalg.norm(across)), 1e-6)
    exchanged = (right - left) @ normal <= 0
    # Patient coordinates run to the left of zero on the left side: R is larger than L along the first axis.
    if across[0] <= 0:
        names = _names([pair[0] for pair in pairs])
        yield Flag("sides_exchanged", "serious", names)
        return
    off = np.abs((middle - np.median(middle, axis=0)) @ normal)
    odd = np.flatnonzero((off > OFF_MIDPLANE_MM) | exchanged)
    if odd.size:
        worst_first = sorted(odd, key=lambda i: -off[i])
        named = _names([pairs[i][0] for i in worst_first])
        yield Flag("sides_do_not_mirror", "warning", named, {"most_mm": float(off.max())})


def _names(measured: Collection[StructureMeasurement]) -> tuple[str, ...]:
    return tuple(m.structure.name for m in measured)


def _border_findings(measurements: Measurements) -> Iterator[Flag]:
    organs = [m for m in measurements.present if m.border and not _is_fluid(m)]
    at_border = sorted(organs, key=lambda m: -m.border_mm2)
    cut = [m for m in at_border if m.border_mm2 >= CUT_MM2]
    touching = [m for m in at_border if m.border_mm2 < CUT_MM2]
    if cut:
        faces = sorted({face for m in cut for face in m.border})
        yield Flag(
            "field_of_view", "warning", _names(cut), {"faces": faces, "area_cm2": cut[0].border_mm2 / 100}
        )
    if touching:
        faces = sorted({face for m in touching for face in m.border})
        yield Flag("touches_border", "warning", _names(touching), {"faces": faces})


def _is_fluid(measured: StructureMeasurement) -> bool:
    """Fluids around the organs naturally consist of many pieces, and continue beyond the scan."""
    return measured.structure.category.meaning == "Body Substance"


def _is_loose(measured: StructureMeasurement) -> bool:
    """Whether a large part of an organ is separate."""
    loose = 1.0 - measured.largest_part
    organ = not (measured.structure.in_parts or _is_fluid(measured))
    return organ and loose > LOOSE_SHARE and loose * measured.volume_ml > LOOSE_ML


def _volume_findings(measurements: Measurements) -> Iterator[Flag]:
    excess = {m.structure.name: factor for m in measurements.present if (factor := _excess(m)) > 1.0}
    worst_first = sorted(excess, key=lambda name: -excess[name])
    if far := tuple(name for name in worst_first if excess[name] > FAR_OUT):
        yield Flag("implausible_volume", "serious", far)
    if near := tuple(name for name in worst_first if excess[name] <= FAR_OUT):
        yield Flag("implausible_volume", "warning", near)


def _excess(measured: StructureMeasurement) -> float:
    """Factor by which a volume lies beyond its plausible range; 1 or less when it lies within."""
    if measured.structure.plausible_ml is None:
        return 0.0
    low, high = measured.structure.plausible_ml
    return max(measured.volume_ml / high, low / measured.volume_ml)


def _grid_findings(grid: Grid) -> Iterator[Flag]:
    fewest = min(grid.shape)
    if fewest < FEW_SLICES:
        yield Flag("few_slices", "serious" if fewest == 1 else "warning", values={"slices": fewest})
    elif max(grid.spacing) > THICK_MM:
        yield Flag("thick_slices", "warning", values={"thickness_mm": max(grid.spacing)})


def _image_findings(quality: ImageQuality, modality: str) -> Iterator[Flag]:
    low, high = quality.range
    if quality.finite < 1.0:
        level: Level = "serious" if quality.finite < 0.99 else "warning"
        yield Flag("not_finite", level, values={"percent": 100 * (1 - quality.finite)})
    if high <= low:
        yield Flag("flat_image", "serious")
        return
    if quality.coherence < INCOHERENT:
        yield Flag("noise_alone", "serious")
        return
    if modality == "CT" and (low >= 0 or low < HU_RANGE[0] or high > HU_RANGE[1]):
        yield Flag("not_hounsfield", "serious", values={"low": low, "high": high})
    if modality == "MR" and quality.snr < LOW_SNR:
        yield Flag("noise", "warning", values={"snr": quality.snr})
    if modality == "MR" and quality.unevenness > UNEVEN:
        yield Flag("uneven_slices", "warning", values={"percent": 100 * quality.unevenness})


def _restoration_findings(difference: Difference) -> Iterator[Flag]:
    """Findings on a restoration that removed more than noise, or shifted the image or left its range."""
    if difference.size > NEGLIGIBLE:
        if level := _level(difference.detail, REMOVED_DETAIL):
            yield Flag("structure_removed", level, values={"percent": 100 * difference.detail})
        if level := _level(abs(difference.offset), SHIFTED):
            yield Flag("intensity_shift", level, values={"times": abs(difference.offset)})
        if difference.of_noise < LITTLE_NOISE:
            yield Flag("little_noise", "warning", values={"percent": 100 * difference.of_noise})
    if level := _level(difference.beyond, BEYOND):
        yield Flag("out_of_range", level, values={"percent": 100 * difference.beyond})


def _level(value: float, limits: tuple[float, float]) -> Level | None:
    return "serious" if value > limits[1] else "warning" if value > limits[0] else None
