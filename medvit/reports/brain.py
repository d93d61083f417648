"""Totals of a head: both sides of a pair together, the whole brain, its share of the intracranial volume."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.reports.measurement import INTRACRANIAL, Measurements

HIPPOCAMPAL_PARTS = frozenset({"hippocampal head", "hippocampal body and tail"})
VENTRICLES = ("left lateral ventricle", "right lateral ventricle", "third ventricle", "fourth ventricle")


@dataclass(frozen=True)
class BrainTotals:
    """Volumes in ml: intracranial, brain without ventricles and fluid, ventricles, all fluid."""

    intracranial_ml: float
    brain_ml: float
    ventricles_ml: float
    fluid_ml: float

    @property
    def parenchymal_fraction(self) -> float:
        """Brain over intracranial volume, 0 to 1; ``nan`` for an empty head."""
        return self.brain_ml / self.intracranial_ml if self.intracranial_ml else float("nan")


def brain_totals(measurements: Measurements) -> BrainTotals | None:
    """The totals of a head; `None` for other parts of the body."""
    if measurements.whole_name != INTRACRANIAL or not measurements.structures:
        return None
    fluid = [m for m in measurements.structures if m.structure.category.meaning == "Body Substance"]
    ventricles = sum(m.volume_ml for m in measurements.structures if m.structure.name in VENTRICLES)
    fluid_ml = ventricles + sum(m.volume_ml for m in fluid)
    whole = measurements.whole_ml
    return BrainTotals(whole, whole - fluid_ml, ventricles, fluid_ml)


def hippocampus_totals(measurements: Measurements) -> dict[str, float]:
    """Volume in ml of head, body and tail together, by side; the side is ``""`` where it is unknown."""
    totals: dict[str, float] = {}
    for m in measurements.present:
        if m.structure.unsided_name in HIPPOCAMPAL_PARTS:
            totals[m.structure.side] = totals.get(m.structure.side, 0.0) + m.volume_ml
    return totals


def pair_totals(measurements: Measurements) -> dict[str, float]:
    """Volume in ml of both sides together, by the name that they share."""
    return {a.name: a.left_ml + a.right_ml for a in measurements.asymmetries}
