"""`StudyReport`: everything that the writers of a report need, gathered once."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from medvit.errors import MedvitError
from medvit.reports.comparison import Comparison, compare
from medvit.reports.display import Display, prepare
from medvit.reports.image_quality import ImageQuality, assess_image, foreground
from medvit.reports.measurement import Measurements, measure
from medvit.reports.pictures import Picture, montage, overlays
from medvit.reports.quality import Flag, Light, check_quality, traffic_light
from medvit.reports.surface import render_surface
from medvit.studies.labels import LabelTable
from medvit.studies.study import Grid


@dataclass(frozen=True)
class Prior:
    """Volumes of an earlier study of the same patient, by structure name, in ml; `date` is its study date."""

    study_id: str
    date: datetime.date
    volumes_ml: Mapping[str, float]


@dataclass(frozen=True)
class Restoration:
    """Image quality before and after a restoration (denoising, super-resolution), and the image before."""

    before: ImageQuality
    after: ImageQuality
    source: np.ndarray


@dataclass(frozen=True)
class StudyReport:
    """The result for one study.

    Parameters
    ----------
    study_id
        Safe to show and to name files by.
    facts
        What the headers say, as in `Series.facts`: ``modality``, ``study_date`` (YYYY-MM-DD or YYYYMMDD),
        ``series_description``, ``units``, ...
    grid
        Of the study.
    image
        (X, Y, Z) intensities, or `None` when there is no picture to show.
    label_map
        (X, Y, Z) integers on the same grid.
    table
        What the labels mean; without structures for a bundle that only restores.
    measurements, flags
        What was measured, and what quality control found.
    image_quality
        Of `image`; `None` without one.
    provenance
        What ran: ``bundle``, ``bundle_version``, ``weights_sha256``, ``software`` (name to version),
        ``settings`` (name to value), ``device``; other keys are shown as they are.
    timings
        Seconds per stage.
    patient
        Identifying facts; the writers leave them out unless asked.
    notes
        What a person should know about how the study was read.
    priors
        Earlier studies of the patient.
    restoration
        For bundles that restore an image.
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
    restoration: Restoration | None = None

    @property
    def light(self) -> Light:
        """One traffic light for the study."""
        return traffic_light(self.flags)

    @property
    def modality(self) -> str:
        """DICOM modality, or an empty string."""
        return str(self.facts.get("modality") or "")

    @property
    def date(self) -> datetime.date | None:
        """Study date, where it is known."""
        return parse_date(self.facts.get("study_date"))

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
        return compare(self.restoration.source, whole, self.image, self.grid)

    @cached_property
    def slices(self) -> list[Picture]:
        """Overlays in three planes."""
        return overlays(self.display)

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
    **others: Any,
) -> StudyReport:
    """Measure a label map, check its quality and gather the report.

    Parameters
    ----------
    study_id, label_map, grid, table, image, facts
        As in `StudyReport`.
    expected_modalities
        DICOM modalities that the bundle was made for.
    confidence
        (X, Y, Z) probability of the chosen label.
    restored_from
        (X, Y, Z) image before restoration, when `image` is its result.
    others
        Further fields of `StudyReport` (provenance, timings, patient, notes, priors).

    Raises
    ------
    MedvitError
        If arrays, grid and table do not fit together.
    """
    facts = dict(facts or {})
    modality = str(facts.get("modality") or "")
    measurements = measure(label_map, grid, table, image, modality=modality, confidence=confidence)
    measured = label_map if len(table) or image is None else foreground(image)
    quality = assess_image(image, measured, grid) if image is not None else None
    flags = check_quality(
        measurements, grid, quality, modality=modality, expected_modalities=expected_modalities
    )
    restoration = None
    if restored_from is not None and quality is not None:
        if restored_from.shape != grid.shape:
            raise MedvitError(f"the image before has shape {restored_from.shape}, but its grid {grid.shape}")
        before = assess_image(restored_from, measured, grid)
        restoration = Restoration(before, quality, restored_from)
    return StudyReport(
        study_id, facts, grid, image, label_map, table, measurements, flags, quality,
        restoration=restoration, **others,
    )  # fmt: skip


def make_restoration_report(
    study_id: str, restored: np.ndarray, before: np.ndarray, grid: Grid, **others: Any
) -> StudyReport:
    """Compare an image with its restoration and gather the report.

    Parameters
    ----------
    study_id, grid
        As in `StudyReport`.
    restored, before
        (X, Y, Z) images.
    others
        As of `make_report`.

    Raises
    ------
    MedvitError
        If arrays and grid do not fit together.
    """
    nothing = np.zeros(grid.shape, np.uint8)
    return make_report(
        study_id, nothing, grid, LabelTable("none", ()), restored, restored_from=before, **others
    )


def parse_date(value: object) -> datetime.date | None:
    """A date from ``YYYY-MM-DD``, DICOM's ``YYYYMMDD`` or a `datetime.date`; `None` when it is neither."""
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.date.fromisoformat(str(value))
    except ValueError:
        return None
