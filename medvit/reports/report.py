"""`StudyReport`: everything that the writers of a report need, gathered once."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from medvit.errors import MedvitError
from medvit.metrics.difference import assess_difference
from medvit.reports.brain import BrainTotals, brain_totals, pair_totals
from medvit.reports.comparison import Comparison, Restoration, compare, contradiction
from medvit.reports.dates import parse_date
from medvit.reports.display import Display, prepare
from medvit.reports.earlier import EarlierLabels, NotAligned, place_earlier
from medvit.reports.image_quality import ImageQuality, assess_image, foreground
from medvit.reports.language import load_language
from medvit.reports.measurement import Measurements, measure
from medvit.reports.norms import Covariates, Norm, norm_of
from medvit.reports.patient import Sex, age_in_years, patient_check, patient_sex
from medvit.reports.pictures import Picture, changed_slices, montage, overlays
from medvit.reports.prior import Prior, check_priors
from medvit.reports.quality import Flag, Light, Verdict, check_quality, traffic_light
from medvit.reports.surface import render_surface
from medvit.studies.labels import LabelTable, Structure, keep_values
from medvit.studies.study import Grid, LoadedStudy

# Findings after which a volume must not be compared with a norm.
NO_NORMS = frozenset({"intracranial_volume", "brain_cut", "fluid_missing", "modality", "sides_exchanged"})


@dataclass(frozen=True)
class Stated:
    """Facts that the user states about a study; they override the headers."""

    age: float | None = None
    sex: Sex | None = None
    date: datetime.date | None = None


def stated_of(age: float | None, sex: str | None, date: str | None) -> Stated:
    """Validate the facts that the user states about a study.

    Raises
    ------
    MedvitError
        If the age is impossible, the sex is neither F nor M, or the date is not a date.
    """
    if age is not None and not 0 <= age <= 120:
        raise MedvitError(f"an age of {age:g} years is impossible; state it in years, from 0 to 120")
    known: dict[str, Sex] = {"F": "F", "M": "M"}
    if sex is not None and sex.upper() not in known:
        raise MedvitError(f"the norms are for sex F and M, not {sex!r}; leave it out to omit norms")
    day = parse_date(date) if date else None
    if date and day is None:
        raise MedvitError(f"{date!r} is not a date; write it as YYYY-MM-DD")
    return Stated(age, known[sex.upper()] if sex else None, day)


@dataclass(frozen=True)
class StudyReport:
    """The result for one study.

    Parameters
    ----------
    study_id
        Identifier that is safe to show and to use in file names.
    facts
        Facts from the headers, as in `Series.facts`: ``modality``, ``study_date`` (YYYY-MM-DD or YYYYMMDD),
        ``series_description``, ``units``, ...
    grid
        Grid of the study.
    image
        (X, Y, Z) intensities, or `None` if there is no picture to show.
    label_map
        (X, Y, Z) integers on the same grid.
    table
        Meaning of the labels; without structures for a bundle that only restores.
    measurements, flags
        Measurements, and findings of quality control.
    image_quality
        Quality of `image`; `None` without one.
    provenance
        Provenance: ``bundle``, ``bundle_version``, ``weights_sha256``, ``software`` (name to version),
        ``settings`` (name to value), ``device``; other keys are shown as they are.
    timings
        Seconds per stage.
    patient
        Identifying facts; the writers leave them out unless asked.
    notes
        Notes for the user on how the study was read.
    priors
        Earlier studies of the patient.
    earlier, not_drawn
        Label map of the latest earlier study on the grid of this one, or why it cannot be drawn: a key of the
        locales.
    restoration
        Image quality before and after, for bundles that restore an image.
    stated
        Age, sex and date that the user states.
    whole
        Measurements of the whole label map, where the others are of some structures only.
    """

    study_id: str
    facts: Mapping[str, Any]
    grid: Grid
    image: np.ndarray | None
    label_map: np.ndarray
    table: LabelTable
    measurements: Measurements
    flags: tuple[Flag, ...]
    image_quality: ImageQuality | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    patient: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    priors: tuple[Prior, ...] = ()
    earlier: EarlierLabels | None = None
    not_drawn: str = ""
    restoration: Restoration | None = None
    stated: Stated = field(default_factory=Stated)
    whole: Measurements | None = None

    def only(self, structures: Collection[Structure]) -> StudyReport:
        """The report on some structures; findings, shares and totals stay those of the whole label map."""
        names = {s.name for s in structures}
        measured = self.whole or self.measurements
        measurements = replace(
            measured,
            structures=tuple(m for m in measured.structures if m.structure in structures),
            asymmetries=tuple(
                a for a in measured.asymmetries if {f"left {a.name}", f"right {a.name}"} <= names
            ),
        )
        values = [s.value for s in structures]
        label_map = keep_values(self.label_map, values, len(self.table))
        earlier = self.earlier
        if earlier is not None:
            earlier = replace(earlier, labels=keep_values(earlier.labels, values, len(self.table)))
        return replace(self, label_map=label_map, measurements=measurements, whole=measured, earlier=earlier)

    @property
    def light(self) -> Light:
        """One traffic light for the study."""
        return traffic_light(self.flags)

    def verdict(self, language: str = "en") -> Verdict:
        """The light and the first finding that counts, in the words of a language."""
        words = load_language(language)
        seen = [words.flag(f, self.table.by_name)[0] for f in self.flags if f.level != "info"]
        return Verdict(self.light, seen[0] if seen else "")

    @property
    def modality(self) -> str:
        """DICOM modality, or an empty string."""
        return str(self.facts.get("modality") or "")

    @property
    def date(self) -> datetime.date | None:
        """Study date, where it is known."""
        return self.stated.date or parse_date(self.facts.get("study_date"))

    def shown_date(self, show_patient: bool) -> datetime.date | None:
        """The date, where it was stated for the report or the patient may be named."""
        return self.date if show_patient else self.stated.date

    @property
    def age(self) -> float | None:
        """Age in years at the time of the study, where it is known."""
        return age_in_years(self.patient, self.date) if self.stated.age is None else self.stated.age

    @property
    def sex(self) -> Sex | None:
        """``"F"`` or ``"M"``, where it is known."""
        return self.stated.sex or patient_sex(self.patient)

    @property
    def patient_check(self) -> str | None:
        """Four digits that distinguish patients without identifying them."""
        return patient_check(self.patient)

    @cached_property
    def totals(self) -> BrainTotals | None:
        """Totals of a head; `None` for other parts of the body."""
        return brain_totals(self.whole or self.measurements)

    @cached_property
    def covariates(self) -> Covariates | None:
        """Predictors of the norms; `None` where age or sex is unknown or the volumes are in doubt."""
        doubted = any(flag.code in NO_NORMS for flag in self.flags)
        if self.age is None or self.sex is None or self.totals is None or doubted or self.modality == "CT":
            return None
        return Covariates(
            self.age, self.sex, self.totals.intracranial_ml,
            field_strength(self.facts.get("field_strength")), str(self.facts.get("manufacturer") or ""),
        )  # fmt: skip

    @cached_property
    def norms(self) -> dict[str, tuple[float, Norm]]:
        """Volume in ml and norm of every structure, pair and total that has one."""
        if self.covariates is None or self.totals is None:
            return {}
        volumes = {m.structure.name: m.volume_ml for m in self.measurements.present}
        volumes |= pair_totals(self.measurements) | {"ventricles": self.totals.ventricles_ml}
        found = {name: norm_of(name, self.covariates) for name in volumes}
        return {name: (volumes[name], norm) for name, norm in found.items() if norm is not None}

    @property
    def unit(self) -> str:
        """Unit of the intensities: HU for CT, what the header says for others, arbitrary units for MR."""
        return "HU" if self.modality == "CT" else str(self.facts.get("units") or "a.u.")

    @cached_property
    def display(self) -> Display:
        """The study ready to be drawn."""
        return prepare(self.label_map, self.grid, self.table, self.image, self.modality)

    @cached_property
    def comparison(self) -> Comparison | None:
        """Slices before and after a restoration."""
        if self.restoration is None or self.image is None:
            return None
        whole = replace(self, label_map=np.zeros(self.grid.shape, np.uint8)).display
        maps = self.restoration.inconsistency
        return compare(self.restoration.source, whole, self.image, self.grid, maps[0] if maps else None)

    @cached_property
    def slices(self) -> list[Picture]:
        """Overlays in three planes."""
        return overlays(self.display)

    @cached_property
    def changed(self) -> list[Picture]:
        """The slices that differ most from the latest earlier study, with its outlines."""
        return changed_slices(self.display, self.earlier.labels, self.grid) if self.earlier else []

    @property
    def latest_prior(self) -> Prior | None:
        """The latest of the earlier studies."""
        return max(self.priors, key=lambda prior: prior.date, default=None)

    @cached_property
    def overview(self) -> Picture | None:
        """The montage, where there is more than one slice."""
        return montage(self.display)

    @cached_property
    def surface(self) -> Picture | None:
        """The surface rendering, where there is one."""
        return render_surface(self.display)


def make_report(
    study_id: str,
    label_map: np.ndarray,
    grid: Grid,
    table: LabelTable,
    image: np.ndarray | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    expected_modalities: Collection[str] = (),
    confidence: np.ndarray | None = None,
    restored_from: np.ndarray | None = None,
    inconsistency: tuple[np.ndarray, np.ndarray] | None = None,
    forced: str = "",
    **others: Any,
) -> StudyReport:
    """Measure a label map, check its quality and gather the report.

    Parameters
    ----------
    study_id, label_map, grid, table, image, facts
        The same fields as of `StudyReport`.
    expected_modalities
        DICOM modalities that the bundle was made for.
    confidence
        (X, Y, Z) probability of the chosen label.
    restored_from
        (X, Y, Z) image before restoration, when `image` is its result.
    inconsistency
        The same field as of `Restoration`.
    forced
        Reason why the bundle refused the study, if the refusal was overruled.
    others
        Further fields of `StudyReport` (provenance, timings, patient, notes, priors, stated).

    Raises
    ------
    MedvitError
        If arrays, grid and table do not fit together, or an earlier study cannot be compared.
    """
    facts = dict(facts or {})
    modality = str(facts.get("modality") or "")
    measurements = measure(label_map, grid, table, image, modality=modality, confidence=confidence)
    measured = label_map if len(table) or image is None else foreground(image)
    quality = assess_image(image, measured, grid) if image is not None else None
    restoration, taken, contradicted = None, None, 0.0
    if restored_from is not None and image is not None and quality is not None:
        if restored_from.shape != grid.shape:
            raise MedvitError(f"the image before has shape {restored_from.shape}, but its grid {grid.shape}")
        before = assess_image(restored_from, measured, grid)
        taken = None if inconsistency else assess_difference(restored_from, image, measured > 0)
        restoration = Restoration(before, quality, restored_from, inconsistency, taken)
        contradicted = contradiction(image, inconsistency[0], measured > 0) if inconsistency else 0.0
    flags = check_quality(
        measurements, grid, quality, modality=modality, expected_modalities=expected_modalities,
        forced=forced, difference=taken, contradicted=contradicted,
    )  # fmt: skip
    report = StudyReport(
        study_id, facts, grid, image, label_map, table, measurements, flags, quality,
        restoration=restoration, **others,
    )  # fmt: skip
    check_priors(report.priors, report.date, report.patient_check, report.sex)
    if report.latest_prior is None or not len(table):
        return report
    try:
        return replace(report, earlier=place_earlier(report.latest_prior, label_map, grid, table))
    except NotAligned as error:
        return replace(report, not_drawn=error.reason)


def field_strength(value: object) -> float | None:
    """Tesla from a header's number, which some write in gauss; `None` when it is neither."""
    try:
        tesla = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return tesla / 10_000 if tesla > 100 else tesla


def make_restoration_report(
    study_id: str, restored: np.ndarray, before: np.ndarray, grid: Grid, **others: Any
) -> StudyReport:
    """Compare an image with its restoration and gather the report.

    Parameters
    ----------
    study_id, grid
        The same fields as of `StudyReport`.
    restored, before
        (X, Y, Z) images.
    others
        Further arguments of `make_report`.

    Raises
    ------
    MedvitError
        If arrays and grid do not fit together.
    """
    nothing = np.zeros(grid.shape, np.uint8)
    return make_report(
        study_id, nothing, grid, LabelTable("none", ()), restored, restored_from=before, **others
    )


def report_restored(study: LoadedStudy, restored: np.ndarray, grid: Grid, **others: Any) -> StudyReport:
    """Compare a study with its restoration, which may lie on a finer grid, and gather the report.

    On a finer grid, the image before is the study's slices interpolated to it, and the report also says how
    far the slices that the restoration would give are from the measured ones.

    Parameters
    ----------
    study
        The study before.
    restored
        (X, Y, Z) image on `grid`.
    others
        Further arguments of `make_report`.

    Raises
    ------
    MedvitError
        If arrays and grids do not fit together.
    """
    if grid.matches(study.grid):
        return make_restoration_report(study.id, restored, study.image[0].numpy(), grid, **others)
    import torch

    from medvit.transforms.in_plane import refinement_to

    refinement, source = refinement_to(study, grid), torch.as_tensor(study.image[:1])
    before = refinement.interpolated(source)
    estimates = torch.from_numpy(np.ascontiguousarray(restored, np.float32))[None], before
    after_map, before_map = (refinement.inconsistency(image, source)[0].numpy() for image in estimates)
    notes = (*others.pop("notes", ()), refinement.describe())
    return make_restoration_report(
        study.id, restored, before[0].numpy(), grid, inconsistency=(after_map, before_map), notes=notes,
        **others,
    )  # fmt: skip
