"""Norms of healthy adults of the same age, sex and head size: published regressions of brain volumes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.special import ndtr

from medvit.reports.patient import Sex

# Two-sided 95 % limits in standard deviations.
LIMIT_95 = 1.959964

# 90 % of 2082 adults lie within this asymmetry, in per cent of the mean of both sides.
ASYMMETRY_90_PERCENT = {"hippocampus": 8.8}
ASYMMETRY_SOURCE = "Lucarelli et al., AJNR 34:752-757, 2013; FreeSurfer, 2082 adults"


@dataclass(frozen=True)
class Covariates:
    """Predictors of the regressions.

    Parameters
    ----------
    age
        Age in years.
    icv_ml
        Intracranial volume in ml.
    field_strength
        Field strength in tesla; below 2 counts as 1.5 T, everything else as 3 T.
    manufacturer
        Manufacturer; GE and Philips have separate terms, all others count as Siemens.
    """

    age: float
    sex: Sex
    icv_ml: float
    field_strength: float | None = None
    manufacturer: str = ""

    @property
    def scanner(self) -> str:
        """The scanner that the regressions were evaluated for."""
        maker = self.manufacturer.lower()
        name = "GE" if maker.startswith("ge") else "Philips" if "philips" in maker else "Siemens"
        return f"{name} {'1.5' if self._low_field else '3'} T"

    @property
    def _low_field(self) -> bool:
        return self.field_strength is not None and 0 < self.field_strength < 2

    def terms(self, centre: dict[str, float]) -> dict[str, float]:
        """Values of the terms of a regression whose age and intracranial volume are centred."""
        age, icv = self.age - centre["age"], 1000 * self.icv_ml - centre["icv"]
        male, low = float(self.sex == "M"), float(self._low_field)
        ge, philips = float(self.scanner.startswith("GE")), float(self.scanner.startswith("Philips"))
        return {
            "intercept": 1.0, "age": age, "age2": age**2, "age3": age**3, "male": male,
            "age_male": age * male, "icv": icv, "icv2": icv**2, "icv3": icv**3,
            "field_1_5t": low, "ge": ge, "philips": philips,
            "ge_1_5t": ge * low, "philips_1_5t": philips * low, "icv_1_5t": icv * low, "icv_ge": icv * ge,
            "icv_philips": icv * philips,
        }  # fmt: skip


@dataclass(frozen=True)
class Norm:
    """Distribution of a volume among healthy adults; normal in ml or, with `log10`, in its logarithm."""

    mean: float
    sd: float
    log10: bool = False

    def ml(self, z: float) -> float:
        """Volume in ml that lies `z` standard deviations from the expected one."""
        value = self.mean + z * self.sd
        return float(10**value) if self.log10 else max(value, 0.0)

    def z(self, volume_ml: float) -> float:
        """Distance of a volume in ml from the expected one, in standard deviations."""
        if volume_ml <= 0:
            return -math.inf
        return ((math.log10(volume_ml) if self.log10 else volume_ml) - self.mean) / self.sd

    def percentile(self, volume_ml: float) -> float:
        """Share of healthy adults with a smaller volume, in per cent."""
        return 100 * float(ndtr(self.z(volume_ml)))


@cache
def regressions() -> dict[str, Any]:
    """The published regressions with their source, ages, coefficients (mm^3) and residual spread."""
    return json.loads((files("medvit.reports") / "normative" / "potvin.json").read_text("utf-8"))


def norm_of(name: str, covariates: Covariates) -> Norm | None:
    """The norm of a structure; `None` when none was published, or not for this age.

    Parameters
    ----------
    name
        Name of a structure of the brain table, ``"ventricles"`` for all of them together, or the name that a
        pair shares for both sides together. The spread of a pair is the sum of that of its sides, as if both
        erred alike: its percentiles are cautious.

    References
    ----------
    Potvin et al., NeuroImage 137:9-20, 2016. Its amygdala and ventral diencephalon are left out, since the
    networks here draw them larger than FreeSurfer does (docs/report.md).
    """
    table = regressions()
    youngest, oldest = table["ages"]
    if not youngest <= covariates.age <= oldest:
        return None
    if name in table["models"]:
        return _predicted(table["models"][name], table, covariates)
    sides = [table["models"].get(f"{side} {name}") for side in ("left", "right")]
    if None in sides or any(side["log10"] for side in sides):
        return None
    left, right = (_predicted(side, table, covariates) for side in sides)
    return Norm(left.mean + right.mean, left.sd + right.sd)


def _predicted(model: dict[str, Any], table: dict[str, Any], covariates: Covariates) -> Norm:
    values = covariates.terms(table["centre"])
    mean = sum(weight * values[term] for term, weight in model["terms"].items())
    if model["log10"]:
        return Norm(mean - 3.0, model["residual_sd"], log10=True)  # mm^3 to ml
    return Norm(mean / 1000, model["residual_sd"] / 1000)


def curve(name: str, covariates: Covariates) -> tuple[np.ndarray, np.ndarray]:
    """Ages (N,) in years, and volumes (N, 3) in ml at the lower 95 % limit, the mean and the upper limit."""
    youngest, oldest = regressions()["ages"]
    ages = np.linspace(youngest, oldest, 77)
    rows = []
    for age in ages:
        at_age = norm_of(name, replace(covariates, age=float(age)))
        assert at_age is not None, "the ages are those of the regressions"
        rows.append([at_age.ml(z) for z in (-LIMIT_95, 0.0, LIMIT_95)])
    return ages, np.array(rows)
